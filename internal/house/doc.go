// Package house holds the rules of this repository that are about its text, as ordinary tests: links and anchors, the
// specification, the examples, and plain English. Each test says why its rule exists.
package house
