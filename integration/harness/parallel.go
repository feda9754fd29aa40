package harness

import (
	"flag"
	"strconv"
)

// Parallel lets so many tests run beside each other, where the command line does not say how many: these tests mostly
// wait, and Go's default is the number of processors. It is for TestMain, and parses the flags.
func Parallel(count int) {
	flag.Parse()
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if !set {
		_ = flag.Set("test.parallel", strconv.Itoa(count))
	}
}
