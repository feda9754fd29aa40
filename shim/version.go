package shim

// Version of this build, a semantic version without a leading v. The Makefile
// sets it.
var Version = "0.0.0-dev"

// userAgent of httpGet handlers that name none of their own (SPEC 3).
func userAgent() string { return "lifecycle-shim/" + Version }
