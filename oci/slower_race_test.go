//go:build race

package oci

// slower is how many times the race detector makes code slower, at most (its documentation
// says 2 to 20).
const slower = 20
