package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// StockRuntime is the runtime that this project must behave like when there is no handler.
const StockRuntime = "io.containerd.runc.v2"

// Client speaks to one daemon in one namespace. The embedded client does everything that has no helper here; give
// it a context from Context. It is safe for concurrent use, and survives a restart of the daemon.
type Client struct {
	*containerd.Client
	Namespace string
	daemon    *Daemon
}

// Client connects to the daemon. Daemon.Close closes the connection.
func (d *Daemon) Client(namespace string) (*Client, error) {
	c, err := containerd.New(d.Address)
	if err != nil {
		return nil, fmt.Errorf("client for containerd: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients = append(d.clients, c)
	return &Client{Client: c, Namespace: namespace, daemon: d}, nil
}

func (d *Daemon) closeClients() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.clients {
		_ = c.Close() // a connection to a daemon that goes now
	}
	d.clients = nil
}

// Context adds the namespace to ctx, for calls on the embedded client.
func (c *Client) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, c.Namespace)
}

// ContainerConfig says what container to make. ID and Args are required.
type ContainerConfig struct {
	ID      string
	Args    []string
	Runtime string // empty: StockRuntime
	// Options are the runtime's options, a registered protobuf message. nil: runc options that keep
	// runc's state below Daemon.RuncRoot. NoOptions{}: none.
	Options any

	RootFS       string // empty: a new one below Daemon.Dir
	Env          []string
	User         specs.User
	Annotations  map[string]string
	Labels       map[string]string
	Capabilities []string // nil: docker's default set
	Seccomp      *specs.LinuxSeccomp
	ReadOnly     bool // root filesystem
	HostPID      bool // no own pid namespace
	Terminal     bool
	CgroupParent string            // empty: "/lcs"; the container's cgroup is ID below it
	Edit         func(*specs.Spec) // has the last word; may be nil
}

// NoOptions as ContainerConfig.Options sends none, as docker and nerdctl do for a runtime type they do not
// know. runc's state is then in /run/containerd/runc/NAMESPACE.
type NoOptions struct{}

func (c ContainerConfig) cgroupParent() string {
	if c.CgroupParent == "" {
		return "/lcs"
	}
	return c.CgroupParent
}

// shimID names the shim that will serve the container: its own, or its group's. By annotation, as containerd's
// cmd/containerd-shim-runc-v2/manager looks it up.
func (c ContainerConfig) shimID() string {
	for _, key := range []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"} {
		if group := c.Annotations[key]; group != "" {
			return group
		}
	}
	return c.ID
}

// runtimeOptions is what the container's record gets; an untyped nil is "none".
func (c *Client) runtimeOptions(opts any) any {
	switch opts.(type) {
	case nil:
		return &runcoptions.Options{Root: c.daemon.RuncRoot}
	case NoOptions:
		return nil
	default:
		return opts
	}
}

// NewContainer makes the container's record, no task yet.
func (c *Client) NewContainer(ctx context.Context, cfg ContainerConfig) (*Container, error) {
	if cfg.ID == "" || len(cfg.Args) == 0 {
		return nil, errors.New("a container needs an ID and Args")
	}
	if cfg.Runtime == "" {
		cfg.Runtime = StockRuntime
	}
	dir := filepath.Join(c.daemon.Dir, "c", c.Namespace, cfg.ID)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("directory of container %s: %w", cfg.ID, err)
	}
	if cfg.RootFS == "" {
		cfg.RootFS = filepath.Join(dir, "rootfs")
		if err := NewRootFS(cfg.RootFS); err != nil {
			return nil, err
		}
	}
	record, err := c.Client.NewContainer(c.Context(ctx), cfg.ID,
		containerd.WithSpec(cfg.spec()),
		containerd.WithRuntime(cfg.Runtime, c.runtimeOptions(cfg.Options)),
		containerd.WithContainerLabels(cfg.Labels))
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", cfg.ID, err)
	}
	c.daemon.sockets.note(c.daemon.Address, c.Namespace, cfg.shimID())
	return &Container{
		ID: cfg.ID, RootFS: cfg.RootFS, OutputFile: filepath.Join(dir, "output"),
		record: record, client: c, dir: dir,
	}, nil
}
