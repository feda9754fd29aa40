// Package version says which build this is.
package version

// Version of this build, a semantic version without a leading v. The Makefile
// sets it.
var Version = "0.0.0-dev"
