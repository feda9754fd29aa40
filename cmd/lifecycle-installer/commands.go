package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/log"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/installer"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// requestLimit bounds each request to the API server.
const requestLimit = 15 * time.Second

// flags of the commands.
type flags struct {
	config     installer.Config
	kubeconfig string
	logFormat  string
	logLevel   string
	listen     string
	timeout    time.Duration
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "lifecycle-installer",
		Short:         "Bring lifecycle-shim onto the nodes of a Kubernetes cluster, and take it off again",
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newRun(), newUninstall())
	return root
}

func newRun() *cobra.Command {
	f := &flags{config: installer.Config{Version: version.Version}}
	command := &cobra.Command{
		Use:   "run --node-name NAME --namespace NAMESPACE",
		Short: "Install on this node, check it, label it, and keep it so",
		Long: `Install lifecycle-shim on this node, check it, label it, and keep it so. It runs as root in a privileged pod of a DaemonSet, with
hostPID, and does its work with "lifecyclectl node" in the node's namespaces.

At most --max-unavailable nodes change at the same time. A node on which the installation fails says so in its annotation and in an
Event, and others wait for it. /healthz reports whether the program is alive, /readyz whether the node is installed, checked and
labelled. After SIGTERM it ends within seconds, and leaves the node as it is.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context()) },
	}
	set := command.Flags()
	f.addCommon(set)
	c := &f.config
	set.StringVar(&c.Node, "node-name", "", "name of this node")
	set.StringVar(&c.StartupTaint, "startup-taint", "", "key of a taint to take off the node when it is ready")
	set.IntVar(&c.MaxUnavailable, "max-unavailable", 1, "how many nodes change at the same time")
	set.IntVar(&c.StopAfterFailures, "stop-after-failures", 1, "after so many nodes have failed, no other one begins; 0: they go on")
	set.DurationVar(&c.TurnDuration, "turn-duration", time.Minute, "how long others wait for an installer that has died while it changed its node")
	set.DurationVar(&c.Retry, "retry", 10*time.Second, "from the first failure to the next try; later ones take up to 5 minutes")
	set.StringVar(&c.Settings, "settings", "", "file of this container with the contents for /etc/lifecycle-shim/config.toml on the node")
	set.StringVar(&c.Prefix, "prefix", "", "directory on the node above the programs' bin; the default is chosen for the node")
	set.StringVar(&c.RestartBy, "restart-by", "systemd", "how containerd is restarted if it has to be: systemd, terminate (SIGTERM, for other supervisors) or none (by you)")
	set.StringVar(&c.Programs, "programs", "/bin", "directory of this container with the programs")
	set.IntVar(&c.HostPID, "host-pid", 1, "a process in the node's namespaces")
	set.StringVar(&f.listen, "listen", ":8081", "address and port of /healthz and /readyz")
	for _, name := range []string{"programs", "host-pid"} {
		_ = set.MarkHidden(name) // fails only for an unknown flag
	}
	for _, name := range []string{"node-name", "namespace"} {
		_ = command.MarkFlagRequired(name)
	}
	return command
}

func newUninstall() *cobra.Command {
	f := &flags{}
	command := &cobra.Command{
		Use:   "uninstall --namespace NAMESPACE",
		Short: "Take lifecycle-shim off every node: ask the installers to, and wait for them",
		Long: `Take lifecycle-shim off every node. It sets the annotation ` + installer.UninstallAnnotation + ` on the DaemonSet. Each installer then
takes the label off its node, waits until no pod of the RuntimeClass is on it, and leaves the node as it was. This command waits for all
of them, and logs what they wait for.

It fails if a node still has the shim after --timeout; the installers then continue. Nodes that are not Ready by then are reported,
and are no failure.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.uninstall(cmd.Context()) },
	}
	set := command.Flags()
	f.addCommon(set)
	set.DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long to wait for the nodes")
	_ = command.MarkFlagRequired("namespace") // fails only for an unknown flag
	return command
}

func (f *flags) addCommon(set *pflag.FlagSet) {
	set.StringVar(&f.config.Namespace, "namespace", "", "namespace of the DaemonSet")
	set.StringVar(&f.config.DaemonSet, "daemonset", installer.DefaultDaemonSet, "name of the DaemonSet")
	set.StringVar(&f.config.RuntimeClass, "runtime-class", installer.DefaultRuntimeClass, "name of the RuntimeClass whose pods need the shim")
	set.StringVar(&f.config.ReadyLabel, "ready-label", installer.DefaultReadyLabel, "label of a node: true when it is ready, false when the installation has failed")
	set.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig of the API server; the default is the pod's own service account")
	set.StringVar(&f.logFormat, "log-format", string(log.TextFormat), "text or json")
	set.StringVar(&f.logLevel, "log-level", log.InfoLevel.String(), "debug logs every step")
}

func (f *flags) setLog() error {
	if f.logFormat != string(log.TextFormat) && f.logFormat != string(log.JSONFormat) {
		return fmt.Errorf("--log-format %q is not known: use text or json", f.logFormat)
	}
	if err := errors.Join(log.SetFormat(log.OutputFormat(f.logFormat)), log.SetLevel(f.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	return nil
}

// server is how to reach the API server.
func (f *flags) server(qps float32) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("cannot find the API server: %w", err)
	}
	config.Timeout, config.QPS, config.Burst = requestLimit, qps, int(2*qps)
	config.UserAgent = "lifecycle-installer/" + version.Version
	config.AcceptContentTypes, config.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf"
	return config, nil
}

func (f *flags) run(ctx context.Context) error {
	if err := errors.Join(f.setLog(), f.config.Check()); err != nil {
		return err
	}
	server, err := f.server(10)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	log.G(ctx).WithField("node", f.config.Node).WithField("version", version.Version).Info("starting")
	health := installer.NewHealth()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return health.Serve(ctx, listener) })
	group.Go(func() error {
		i, stop, err := installer.New(ctx, f.config, server, health)
		if err != nil {
			return err
		}
		defer stop()
		i.Run(ctx)
		return nil
	})
	return group.Wait()
}

func (f *flags) uninstall(ctx context.Context) error {
	if err := f.setLog(); err != nil {
		return err
	}
	if f.timeout <= 0 {
		return errors.New("--timeout: a positive duration is needed")
	}
	server, err := f.server(50)
	if err != nil {
		return err
	}
	removal, err := installer.NewRemoval(f.config, f.timeout, server)
	if err != nil {
		return err
	}
	return removal.Run(ctx)
}
