package shim

import (
	"flag"
	"io"
	"os"
	"testing"

	"github.com/containerd/log"
)

// TestMain keeps the log of what the tests provoke to -v.
func TestMain(m *testing.M) {
	flag.Parse()
	if !testing.Verbose() {
		log.L.Logger.SetOutput(io.Discard)
	}
	os.Exit(m.Run())
}
