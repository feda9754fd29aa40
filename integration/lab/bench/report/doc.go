// Package report turns what was measured into results in the format of Go's benchmarks, which benchstat reads, and compares the
// ratios that matter with their targets.
//
// A ratio is taken in each round, of values that were measured within seconds of each other, so that changes of the load of the
// machine changes both. It is a separate metric in the results. Nothing here measures, and the same values always give the same
// results.
package report
