// Package apparmor tests that handlers have the AppArmor profile of their container. It needs a kernel with AppArmor,
// so `make cgroup2` runs it, in its machine, and `make test` does not: attack_test.go, which it runs, shows that
// a handler whose label cannot be set does not run.
package apparmor
