package bounds

import (
	"os"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

func TestMain(m *testing.M) { os.Exit(shimtest.Main(m)) }
