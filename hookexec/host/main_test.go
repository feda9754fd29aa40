package host

import (
	"os"
	"testing"
)

// asHost makes this test's binary the handler host, whose arguments follow.
const asHost = "HOST_TEST_IS_HOST"

// As in the program itself: the process that becomes a handler is this binary too.
func init() { Init(os.Args) }

func TestMain(m *testing.M) {
	if os.Getenv(asHost) != "" {
		os.Exit(Main(os.Args))
	}
	os.Exit(m.Run())
}
