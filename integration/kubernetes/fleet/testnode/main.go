// Command testnode becomes the first process of a node of a fleet: see the package boot.
package main

import (
	"fmt"
	"os"

	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/fleet/boot"
)

func main() {
	if err := boot.Main(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "testnode:", err)
		os.Exit(1)
	}
}
