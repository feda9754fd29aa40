// Command cgroup2 runs the integration tests on cgroup v2, whatever the machine has: in an emulated one, with Debian 12's own kernel, and
// systemd as its init. The tests are the same, and so are the binaries under test; only the emulator is slow, so the tests wait longer
// there (harness.Patience). What is left out, and why, is in plan.go.
//
// It needs root, a Debian mirror the first time, and what `make build servers` and `make deps-cgroup2` bring:
//
//	make cgroup2                                      # all of it
//	make cgroup2 RUN=Pause                            # the tests that match
//	make cgroup2 CGROUP2_PAGE=docs/cgroup-v2.md       # all of it, and write the page with the result
//
// A signal ends it, and with it the machine; nothing of either stays.
package main
