// Package parity compares this project's shim with containerd's own, io.containerd.runc.v2: a user who sets no handler must
// not be able to tell them apart.
//
// Each scenario is a program of a containerd client. It is run against both shims, under the same daemon and with the same
// OCI runtime, and everything that it sees is written down: each answer with all its fields, each error with its code and
// its words, what the containers have printed, and the task events, in order. What cannot be the same twice (process ids,
// times, directories) gets a name at its first appearance, so that it is still compared where it appears again. The two
// reports must be equal, line by line, but for the entries of differences_test.go, each with its reason.
//
// Our shim runs it twice: without any lifecycle annotation, and with handlers, where docs/spec.md promises that nothing else
// changes. PARITY.md says which shim is compared with which, and is held by TestDocument.
package parity
