package task

import (
	"os"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// Most tests run under each of bed.Targets: the containerd releases of docs/spec.md#servers, and runc and crun.
func TestMain(m *testing.M) { os.Exit(bed.Main(m)) }
