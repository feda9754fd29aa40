// Command lifecycle-installer brings the shim onto the nodes of a Kubernetes cluster, as a DaemonSet, and takes it off again.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lifecycle-installer:", err)
		stop()
		os.Exit(1)
	}
}
