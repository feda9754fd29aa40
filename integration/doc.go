// Package integration tests the built binaries under real containerd daemons and
// real OCI runtimes, as their users meet them. It never imports the packages
// under test.
//
// Each test ends with a leak check (harness.Watch); those through CRI (TestCRI…),
// which run beside each other, end with one for all of them. Handlers are steered
// with files in the container's working directory, so that no test waits for a
// time to pass: a handler says that it has begun by making a file, and goes on
// when the test has made another one.
package integration
