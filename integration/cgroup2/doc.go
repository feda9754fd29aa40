// Command cgroup2 runs the integration tests on cgroup v2, whatever the machine has: in an emulated one, with Debian 12's own kernel, and
// systemd as its init. The tests are the same, and so are the binaries under test; only the emulator is slow, so the tests wait longer
// there (harness.Patience). What is left out, and why, is in plan.go.
//
// It needs root, a Debian mirror the first time, and what `make build servers` and `make deps-cgroup2` bring:
//
//	make cgroup2                                      # all of it
//	make cgroup2 RUN=Pause                            # the tests that match
//
// The result is in dist/cgroup-v2.md, with its data beside it: of several runs, each test has its last one. docs/measurements.md#cgroup-v2
// has a summary.
//
// A signal ends it, and with it the machine; nothing of either stays.
package main
