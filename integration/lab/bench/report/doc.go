// Package report says what was measured, and what follows from it.
//
// A Report holds machine, scenes and every single value. Rows divides them, round by round, and compares the medians
// with the targets; WriteText and Markdown show it. Nothing here measures, and nothing depends on when or where it runs: the
// same values always give the same tables.
package report
