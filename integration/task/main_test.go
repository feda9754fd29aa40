package task

import (
	"os"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

func TestMain(m *testing.M) { os.Exit(bed.Main(m)) }
