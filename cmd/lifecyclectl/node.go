package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/node"
)

func newNode(o *options) *cobra.Command {
	command := &cobra.Command{
		Use:   "node",
		Short: "Install lifecycle-shim on this node, check it, and remove it",
		Args:  cobra.NoArgs,
	}
	command.AddCommand(newNodeInstall(), newNodeUninstall(), newNodeStatus(), newNodeCheck(o), newSelfTest())
	return command
}

// nodeFlags are the flags that the commands share.
type nodeFlags struct {
	node.Options
	format  string
	restart bool
	by      string
}

func (f *nodeFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&f.Prefix, "prefix", "", "install the programs into PREFIX/bin; the default is the first of /usr/local/bin, /opt/containerd/bin and /home/kubernetes/bin that is possible")
	flags.StringVar(&f.Bin, "bin", "", "directory of the programs now; the default is this program's. Those of a package or of make install are not copied")
	flags.IntVar(&f.PID, "pid", 0, "the containerd to configure, if several run")
	flags.StringVar(&f.Config, "config", "", "its configuration; the default is the one that the running containerd reads, or /etc/containerd/config.toml if none runs")
	flags.StringVar(&f.Containerd, "containerd", "", "containerd's program, which reads its configuration; with --config it need not run yet")
	flags.StringVarP(&f.format, "output", "o", "text", "text or json")
}

// addInstall adds the flags that only an installation has.
func (f *nodeFlags) addInstall(command *cobra.Command) {
	flags := command.Flags()
	flags.BoolVar(&f.RuntimePath, "runtime-path", false, "a handler of runc's own type with a runtime_path: for pods in user namespaces that need runc's options")
	flags.StringVar(&f.CgroupDriver, "cgroup-driver", "", "cgroupfs or systemd, with --runtime-path; the default is the driver in the kubelet's configuration")
	flags.StringVar(&f.Settings, "settings", "", "file with the node's settings, which are written to "+node.SettingsPath)
}

func (f *nodeFlags) addRestart(command *cobra.Command) {
	flags := command.Flags()
	flags.BoolVar(&f.restart, "restart", false, "restart containerd with systemctl if it has to be: containers keep running, and a start that is held begins again")
	flags.StringVar(&f.by, "restart-by", "", "how containerd is restarted: systemd (the same as --restart), terminate (SIGTERM, and its supervisor starts it again), or none (the default)")
	flags.DurationVar(&f.RestartWithin, "restart-within", 2*time.Minute, "how long containerd may take to return; after that, its previous configuration is put back")
}

// read returns the options.
func (f *nodeFlags) read() (node.Options, error) {
	if f.format != "text" && f.format != "json" {
		return node.Options{}, fmt.Errorf("--output %q is not known: use text or json", f.format)
	}
	f.Options.Restart = node.RestartNone
	if f.restart {
		f.Options.Restart = node.RestartSystemd
	}
	if f.by != "" {
		f.Options.Restart = node.Restart(f.by)
	}
	return f.Options, nil
}

func newNodeInstall() *cobra.Command {
	f := &nodeFlags{}
	command := &cobra.Command{
		Use:   "install",
		Short: "Copy the programs to this node, and add the runtime handler to containerd's configuration",
		Long: `Copy the programs to this node, and add the runtime handler "lifecycle" to the configuration that the running containerd
reads, in the way of its distribution (kubeadm, k3s, rke2, k0s, microk8s, EKS, GKE, AKS). containerd's own program reads
the result. On any failure everything is put back. Doing it again changes nothing, or completes what was interrupted.

It restarts nothing without --restart or --restart-by.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.read()
			if err != nil {
				return err
			}
			return printResult(outOf(cmd), f.format, node.Install(cmd.Context(), o), printInstalled)
		},
	}
	f.add(command)
	f.addInstall(command)
	f.addRestart(command)
	return command
}

func newNodeUninstall() *cobra.Command {
	f := &nodeFlags{}
	command := &cobra.Command{
		Use:   "uninstall",
		Short: "Leave this node as it was before the installation",
		Long: `Leave this node byte for byte as it was before the installation with the same --prefix. It fails while pods use the shim.

It restarts nothing without --restart or --restart-by.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.read()
			if err != nil {
				return err
			}
			return printResult(outOf(cmd), f.format, node.Uninstall(cmd.Context(), o), printRemoved)
		},
	}
	f.add(command)
	f.addRestart(command)
	return command
}

// printResult prints what was done, and returns the failure as an error.
func printResult(out io.Writer, format string, r node.Result, text func(io.Writer, node.Result)) error {
	if format == "json" {
		if err := encodeJSON(out, r); err != nil {
			return err
		}
	} else if r.Failure == nil {
		text(out, r)
	}
	if r.Failure != nil {
		return errors.New(r.Failure.Error())
	}
	return nil
}

func encodeJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func printInstalled(out io.Writer, r node.Result) {
	fmt.Fprintf(out, "== the programs are in %s\n", r.Programs)
	fmt.Fprintf(out, "== containerd %s has the runtime handler \"lifecycle\" in its configuration, %s\n", r.Containerd.Version, r.Containerd.Config)
	printNotes(out, r)
	fmt.Fprintln(out, "then: lifecyclectl doctor")
	fmt.Fprintln(out, "once for the cluster: kubectl apply -f deploy/kubernetes/runtimeclass.yaml -f deploy/kubernetes/policy.yaml")
	fmt.Fprintln(out, "before Kubernetes 1.36, which has no MutatingAdmissionPolicy: lifecyclectl webhook, or lifecyclectl convert")
}

func printRemoved(out io.Writer, r node.Result) {
	fmt.Fprintln(out, "lifecycle-shim is removed from this node.")
	printNotes(out, r)
}

func printNotes(out io.Writer, r node.Result) {
	for _, note := range r.Notes {
		fmt.Fprintln(out, "note:", note)
	}
	unit := r.Containerd.Unit
	if unit == "" {
		unit = "containerd"
	}
	switch r.Restart {
	case node.RestartNeeded:
		fmt.Fprintf(out, "next: systemctl restart %s   (containers keep running; a start that is held begins again)\n", unit)
	case node.RestartDone:
		fmt.Fprintf(out, "== containerd was restarted, and runs as process %d\n", r.Containerd.PID)
	}
}
