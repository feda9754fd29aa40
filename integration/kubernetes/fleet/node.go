package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/fleet/boot"
)

// NodeConfig says what kind of node to start.
type NodeConfig struct {
	Name    string // node1 to node9
	Systemd bool   // is its first process; else a supervisor, which starts containerd again if it ends
	Labels  string // that the kubelet registers, such as a=b,c=d
	Taints  string // likewise, such as key=value:NoSchedule
	// Files are written before the node boots, by their absolute path on it.
	Files map[string]string
}

// Node is a node that has been started.
type Node struct {
	NodeConfig
	Address string

	fleet  *Fleet
	number int
	init   harness.Program // unshare, which waits for the first process
}

func nodeNames() []string {
	names := make([]string, maxNodes)
	for i := range names {
		names[i] = fmt.Sprintf("node%d", i+1)
	}
	return names
}

func (f *Fleet) addNode(cfg NodeConfig) (*Node, error) {
	number := len(f.Nodes) + 1
	if want := fmt.Sprintf("node%d", number); cfg.Name != want || number > maxNodes {
		return nil, fmt.Errorf("the next node must be named %s, and the last node%d", want, maxNodes)
	}
	n := &Node{NodeConfig: cfg, Address: nodeAddress(number), fleet: f, number: number}
	f.Nodes = append(f.Nodes, n)
	for _, step := range []func() error{n.prepare, n.writeFiles, func() error { return f.Network.addRoute(number) }, n.boot} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("node %s: %w", cfg.Name, err)
		}
	}
	return n, nil
}

func (n *Node) dir() string    { return n.fleet.path(n.Name) }
func (n *Node) cgroup() string { return "/" + filepath.Base(n.fleet.dir) + "/" + n.Name }

// layer is a directory of the node's on the fleet's filesystem.
func (n *Node) layer(name string) string { return n.fleet.files(n.Name + "/" + name) }

// separate are the node's directories that cannot be on an overlay.
var separate = map[string]string{"/var/lib/containerd": "containerd", "/var/lib/kubelet": "kubelet"}

func (n *Node) prepare() error {
	dirs := []string{n.dir(), n.layer("upper"), n.layer("work")}
	for _, name := range separate {
		dirs = append(dirs, n.layer(name))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return harness.MakeCgroupParent(n.cgroup())
}

func (n *Node) boot() error {
	c := &boot.Config{
		Name: n.Name, Dir: n.dir(), Layers: []string{n.fleet.base()}, Upper: n.layer("upper"), Work: n.layer("work"), Binds: map[string]string{},
		Cgroup: n.cgroup(), Bridge: bridge, Address: n.Address + "/24", Gateway: apiAddress,
	}
	for place, name := range separate {
		c.Binds[place] = n.layer(name)
	}
	if !n.Systemd {
		c.Programs = n.programs()
	}
	file := filepath.Join(n.dir(), "node.json")
	if err := boot.WriteConfig(file, c); err != nil {
		return err
	}
	n.init = harness.Program{
		Name: "node " + n.Name, LogFile: filepath.Join(n.dir(), "init.log"), Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Args: []string{
			"/usr/bin/nsenter", "--net=" + n.fleet.Network.file, "/usr/bin/unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--kill-child",
			filepath.Join(n.fleet.cfg.BinDir, "testnode"), file,
		},
	}
	return n.init.Start()
}

// PID is the node's first process, as the machine counts them.
func (n *Node) PID() (int, error) {
	parent, err := harness.ProcessByID(n.init.Pid())
	if err != nil {
		return 0, fmt.Errorf("node %s does not run: %w", n.Name, err)
	}
	children, err := parent.Children()
	if err != nil || len(children) == 0 {
		return 0, errors.Join(fmt.Errorf("node %s has no first process\n%s", n.Name, tail(n.init.Log())), err)
	}
	return children[0].PID, nil
}

// Log is the end of what a program of the node has logged: containerd, kubelet or kube-proxy.
func (n *Node) Log(program string) string {
	text, err := os.ReadFile(n.layer("upper/var/log/" + program + ".log"))
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	return string(text)
}

// Kill ends the node as a loss of power does. A second one does nothing.
func (n *Node) Kill() error {
	if pid, err := n.PID(); err == nil {
		_ = unix.Kill(pid, unix.SIGKILL) // all others end with it, before unshare hears of it
	}
	return n.init.Stop(syscall.SIGTERM)
}

func (n *Node) waitReady(ctx context.Context) error {
	err := harness.Poll(ctx, readyLimit, "node "+n.Name+" to be Ready", func() (bool, error) {
		if err := n.init.Ended(); err != nil {
			return false, err
		}
		var node core.Node
		if err := n.fleet.Get(ctx, "/api/v1/nodes/"+n.Name, &node); err != nil {
			return false, nil //nolint:nilerr // not registered yet
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == core.NodeReady {
				return condition.Status == core.ConditionTrue, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("%w\ninit:\n%s\nkubelet:\n%s\ncontainerd:\n%s", err, tail(n.init.Log()), tail(n.Log("kubelet")), tail(n.Log("containerd")))
	}
	return nil
}

// machineID differs, as the kubelet reports it.
func machineID() string { return strings.ToLower(hex.EncodeToString([]byte(rand.Text()[:16]))) + "\n" }

func tail(text string) string { return text[max(0, len(text)-4096):] }
