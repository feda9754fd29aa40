// Package version says which build this is.
package version

import (
	"fmt"
	"io"
	"path/filepath"
)

// Version of this build, a semantic version without a leading v. The Makefile
// sets it.
var Version = "0.0.0-dev"

// Answer writes the program's name and version if that is all that the arguments ask for.
func Answer(args []string, out io.Writer) bool {
	if len(args) != 2 || args[1] != "-v" && args[1] != "-version" && args[1] != "--version" {
		return false
	}
	fmt.Fprintln(out, filepath.Base(args[0]), Version)
	return true
}
