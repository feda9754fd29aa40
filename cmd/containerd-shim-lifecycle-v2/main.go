// Command containerd-shim-lifecycle-v2 is a containerd shim that runs Kubernetes lifecycle
// handlers for any container. containerd starts it.
package main

import (
	"context"
	"os"

	"github.com/lifecycle-shim/lifecycle-shim/shim"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

func main() {
	if version.Answer(os.Args, os.Stdout) {
		return
	}
	os.Exit(shim.Main(context.Background(), os.Args))
}
