// Command lifecyclectl shows an operator what lifecycle handlers do, and converts manifests.
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
	// address of containerd's socket. Empty means every containerd of this machine.
	address string
	// namespace of containerd. Empty means all of them.
	namespace string
}

func newRoot() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:           "lifecyclectl",
		Short:         "Show, try and check the lifecycle handlers of containers",
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			o.address = strings.TrimPrefix(o.address, "unix://") // nerdctl and the kubelet write it with this prefix
		},
	}
	root.SetErr(terminal{os.Stderr})
	flags := root.PersistentFlags()
	flags.StringVarP(&o.address, "address", "a", os.Getenv("CONTAINERD_ADDRESS"), "containerd's socket; the default is $CONTAINERD_ADDRESS, or every containerd of this machine")
	flags.StringVarP(&o.namespace, "namespace", "n", os.Getenv("CONTAINERD_NAMESPACE"), "containerd's namespace; the default is $CONTAINERD_NAMESPACE, or all of them")
	root.AddCommand(newStatus(o), newLogs(o), newRun(o), newEvents(o), newDoctor(o), newConvert(), newValidate(), newWebhook(), newMan(),
		newNode(o))
	return root
}

// endAtSignals lets signals kill a command at once. It is for commands that only read,
// compute and print, and have nothing to clean up.
func endAtSignals(*cobra.Command, []string) { signal.Reset(os.Interrupt, unix.SIGTERM) }
