// Package growth measures how cost grows with the number of containers, from one to some hundred, all in one pod and each
// in its own, and how long all of them take to stop at once. Model says from that what a larger node does;
// docs/measurements.md#growth has the method and the last result.
//
// It is a black box: it needs root, and the programs in a directory. Measure is called by the program in run, and can be
// by any other.
package growth
