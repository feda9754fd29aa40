package host

import (
	"os"
	"runtime"
	"testing"
)

// asHost makes this test's binary the handler host, whose arguments follow.
const asHost = "HOST_TEST_IS_HOST"

// As in the program itself: the process that becomes a handler is this binary too.
// The first thread, which never ends, is the main goroutine's from then on, so that no test that needs a thread of its own
// is given it.
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
