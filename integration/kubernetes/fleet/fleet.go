package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// readyLimit bounds every wait for a part of the cluster. Usual: 10 s for a node.
var readyLimit = harness.Patience(2 * time.Minute)

// Config says what to start.
type Config struct {
	BinDir string // with containerd, runc, testnode and kubernetes/
	Nodes  []NodeConfig
}

// ThreeNodes are those of most tests: the first has systemd.
var ThreeNodes = []NodeConfig{{Name: "node1", Systemd: true}, {Name: "node2"}, {Name: "node3"}}

// Fleet is a running cluster. Its methods are not safe for concurrent use, those of API are.
type Fleet struct {
	*cluster.API
	Registry *Registry
	Nodes    []*Node // all that ever were
	Network  *Network

	cfg      Config
	dir      string
	place    cluster.Place
	programs []*harness.Program // of the control plane, besides the API server's
}

// Start returns when all nodes are Ready. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (*Fleet, error) {
	if harness.CgroupV2() {
		return nil, errors.New("this machine has cgroup v2 alone: fleets know v1 only")
	}
	dir, err := cluster.MakeDir()
	if err != nil {
		return nil, err
	}
	f := &Fleet{cfg: cfg, dir: dir}
	for _, step := range []func(context.Context) error{f.prepare, f.startControlPlane, f.startRegistry, f.startNodes} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

func (f *Fleet) path(name string) string { return filepath.Join(f.dir, name) }

// files is a filesystem of its own: an overlay cannot have its upper directory on the filesystem that it lies above.
func (f *Fleet) files(name string) string { return filepath.Join(f.dir, "files", name) }

func (f *Fleet) prepare(context.Context) error {
	if err := os.Mkdir(f.files(""), 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", f.files(""), "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("filesystem of the nodes: %w", err)
	}
	network, err := newNetwork(f.path("net"))
	if err != nil {
		return err
	}
	f.Network = network
	return nil
}

// startNodes starts them at once, and then waits.
func (f *Fleet) startNodes(ctx context.Context) error {
	if err := f.writeBase(ctx); err != nil {
		return err
	}
	for _, cfg := range f.cfg.Nodes {
		if _, err := f.addNode(cfg); err != nil {
			return err
		}
	}
	for _, node := range f.Nodes {
		if err := node.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// AddNode lets another node join, and returns when it is Ready.
func (f *Fleet) AddNode(ctx context.Context, cfg NodeConfig) (*Node, error) {
	node, err := f.addNode(cfg)
	if err != nil {
		return nil, err
	}
	return node, node.waitReady(ctx)
}

// Close ends everything, and removes it. A second Close does nothing.
func (f *Fleet) Close() error {
	var errs []error
	for _, node := range f.Nodes {
		errs = append(errs, node.Kill())
	}
	for _, program := range f.programs {
		errs = append(errs, program.Stop(syscall.SIGKILL))
	}
	if f.Registry != nil {
		f.Registry.Close()
	}
	if f.API != nil {
		errs = append(errs, f.API.Close())
	}
	return errors.Join(append(errs, cluster.RemoveDir(f.dir))...)
}
