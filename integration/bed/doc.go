// Package bed is what the tests of the built shim share: a containerd per target (a release of containerd with an OCI
// runtime), a Bench for one test through containerd's task API, a PodBench for one through CRI, and the containers, scripts
// and waits that they use. The packages task, cri, attack and node hold the tests.
//
// Each test ends with a leak check (harness.Watch). The tests of pods run beside each other under one containerd and end with
// one check for all of them. Handlers are steered with files in the container's working directory, so that no test waits for
// a time to pass: a handler makes a file when it begins, and continues when the test has made another one.
package bed
