//go:build race

package oci

// slower is by how much the race detector slows code down at most (its documentation says 2 to
// 20 times).
const slower = 20
