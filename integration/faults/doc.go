// Package faults breaks what the shim stands on, in every phase that a container can be in.
//
// A cell of the matrix is one real container in one phase (phases_test.go: how it is reached, and what holds it there, as the
// status service reports) and one fault (faults_test.go). After the fault, and once it is healed, a client brings the container to
// its end; what it was answered, what the container and its handlers have noted, the events, and the leftovers on the machine
// must keep the promises. The cells are the product of the two tables, so none can be left out, and a phase that the machine
// has and the table has not fails TestPhases.
//
// The second matrix (pairs_test.go) is of two clients at once: every pair of the task service's methods, in the phases that last.
//
// The shim under test is built with the race detector (bin/race). FAULTS.md is made from the tables, and held by TestDocument.
package faults
