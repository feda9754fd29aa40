// Command lifecycle-hookexec is the handler host that
// containerd-shim-lifecycle-v2 starts for exec handlers. It is not run by hand.
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
