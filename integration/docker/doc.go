// Package docker tests the built binaries under a real dockerd, and under nerdctl and ctr as docs/use/ctr-nerdctl-docker.md
// has them: every command of that page is run. Like package integration, it never imports the packages under test.
//
// One containerd and one dockerd serve all tests, which run beside each other, because most of them wait for docker's
// timers; a look for leaks ends them all. Only the tests of dockerd's restart have their own.
//
// Handlers are steered with files, as in package integration: a directory of the test is mounted in its containers, and
// is their working directory, and so the handlers'.
package docker
