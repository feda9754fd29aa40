// Command lifecyclectl shows an operator what becomes of lifecycle handlers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(terminal{os.Stderr}, "lifecyclectl:", err)
		stop()
		os.Exit(1)
	}
}

// options are the flags of every command.
type options struct {
	// address of containerd's socket; empty: of any containerd of this machine.
	address string
	// namespace of containerd's; empty: all of them.
	namespace string
}

func newRoot() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:           "lifecyclectl",
		Short:         "Show what becomes of containers' lifecycle handlers",
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			o.address = strings.TrimPrefix(o.address, "unix://") // as nerdctl and the kubelet have it
		},
	}
	root.SetErr(terminal{os.Stderr})
	flags := root.PersistentFlags()
	flags.StringVarP(&o.address, "address", "a", os.Getenv("CONTAINERD_ADDRESS"), "containerd's socket, else $CONTAINERD_ADDRESS, else every containerd of this machine")
	flags.StringVarP(&o.namespace, "namespace", "n", os.Getenv("CONTAINERD_NAMESPACE"), "containerd's namespace, else $CONTAINERD_NAMESPACE, else all of them")
	root.AddCommand(newStatus(o), newLogs(o), newRun(o), newEvents(o), newDoctor(o), newConvert(), newValidate(), newWebhook(), newMan(),
		newNodeContainerds(), newNodeShims(), newTrusted())
	return root
}

// endAtSignals is for commands that have nothing to end in order: they only read, compute
// and print.
func endAtSignals(*cobra.Command, []string) { signal.Reset(os.Interrupt, unix.SIGTERM) }
