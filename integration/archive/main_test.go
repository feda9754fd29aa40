package archive

import (
	"os"
	"path/filepath"
	"testing"

	crane "github.com/google/go-containerregistry/cmd/crane/cmd"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// TestMain also is the program crane, under that name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "crane" {
		if crane.Root.Execute() != nil { // it has printed why
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(bed.Main(m))
}
