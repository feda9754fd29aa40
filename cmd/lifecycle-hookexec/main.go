// Command lifecycle-hookexec is the process that runs exec handlers. The shim starts it; it
// is not run by hand.
package main

import (
	"os"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/host"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

func init() { host.Init(os.Args) }

func main() {
	if version.Answer(os.Args, os.Stdout) {
		return
	}
	os.Exit(host.Main(os.Args))
}
