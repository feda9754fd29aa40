// Command cgroup2 runs the integration tests on cgroup v2, regardless of the machine: in an emulated one, with Debian 12's own kernel, and
// systemd as its init. The tests are the same, and so are the binaries under test; only the emulator is slow, so the tests wait longer
// there (harness.Patience). What is left out, and why, is in plan.go.
//
// It needs root, a Debian mirror the first time, and what `make build servers` and `make deps-cgroup2` bring:
//
//	make cgroup2                                      # all of it
//	make cgroup2 RUN=Pause                            # the tests that match
//
// dist/cgroup2.json has the events of the tests, as test2json has them, and gotestsum prints what has failed. A whole run must have
// passed the tests that show a point of plan.go. docs/measurements.md#cgroup-v2 has the last result.
//
// A signal ends it, and with it the machine; nothing of either stays.
package main
