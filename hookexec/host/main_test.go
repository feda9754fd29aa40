package host

import (
	"os"
	"runtime"
	"testing"
)

// asHost, as the first argument, makes this test's binary the handler host. The host's
// arguments follow.
const asHost = "HOST_TEST_IS_HOST"

// As in the program itself, the process that becomes a handler runs this binary too.
// The main goroutine keeps the first thread, which never ends, so that no test that needs a separate thread gets it.
func init() {
	Init(os.Args)
	runtime.LockOSThread()
}

func TestMain(m *testing.M) {
	if os.Getenv(asHost) != "" {
		os.Exit(Main(os.Args))
	}
	os.Exit(m.Run())
}
