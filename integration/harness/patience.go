package harness

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// Slowness is the variable of the environment that says how many times slower than a usual machine this one is: a whole number from 1,
// which is the default. An emulated machine has more.
const Slowness = "LIFECYCLE_TEST_SLOWNESS"

var slowness = mustSlowness(os.Getenv(Slowness))

// Patience is how long to wait, on this machine, for what takes at most usual on others. It is for waits that only a failure lets end, and
// never for a time that a test wants something to have taken: no assertion becomes weaker by it.
func Patience(usual time.Duration) time.Duration { return time.Duration(slowness) * usual }

// mustSlowness panics, as nothing that a test could do with a wrong number would be what was meant.
func mustSlowness(text string) int {
	if text == "" {
		return 1
	}
	times, err := strconv.Atoi(text)
	if err != nil || times < 1 || times > 100 {
		panic(fmt.Sprintf("%s=%s: it must be a whole number from 1 to 100", Slowness, text))
	}
	return times
}
