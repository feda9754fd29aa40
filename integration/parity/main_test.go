package parity

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// shimDir is for a build of the shim that the suite must see to be broken.
var shimDir = flag.String("shim", "", "a directory with another build of our shim")

// limit bounds every wait. It is long, because it is only reached by a failure.
var limit = harness.Patience(60 * time.Second)

// target is a containerd with an OCI runtime.
type target struct {
	name, server, binary string
	stock                string // the stock shim's version, for the document
}

var (
	pinned  = target{name: "2.4-runc", server: "2.4", binary: "runc", stock: "2.4, of the modules that ours is made of"}
	targets = []target{
		pinned,
		{name: "2.4-crun", server: "2.4", binary: "crun", stock: "2.4, of the modules that ours is made of"},
		{name: "1.7-runc", server: "1.7", binary: "runc", stock: "1.7, of the same module as that containerd"},
		{name: "1.6-runc", server: "1.6", binary: "runc", stock: "1.6, of Debian's package containerd"},
	}
)

// side is a shim, and how its containers are made.
type side struct {
	name, runtime string
	annotations   map[string]string
}

var (
	stock = side{name: "stock", runtime: harness.StockRuntime}
	plain = side{name: "plain", runtime: "io.containerd.lifecycle.v2"}
	// handlers has those that succeed at once: docs/spec.md#start and #stop then add nothing that a client sees, but for their own events.
	handlers = side{name: "handlers", runtime: "io.containerd.lifecycle.v2", annotations: map[string]string{
		"lifecycle-shim.io/lifecycle": `{postStart: {exec: {command: [/bin/true]}}, preStop: {exec: {command: [/bin/true]}}}`,
	}}
	sides = []side{stock, plain, handlers}
)

// way is how the client speaks to the shim.
type way string

const (
	// byDaemon: through containerd's task service.
	byDaemon way = "containerd"
	// bySocket: the shim itself is called, where containerd would come between.
	bySocket way = "socket"
	// byBinary: the shim's binary is run, as containerd runs it.
	byBinary way = "binary"
)

// group is the annotation that makes containers share a shim.
const group = "io.containerd.runc.v2.group"

// world is a daemon with what each side needs on it.
type world struct {
	target target
	daemon *harness.Daemon
	tmp    string // containerd's directory for temporary files
	watch  harness.Watch
	before harness.Snapshot
	sides  map[string]*place
}

// place is a side's own on a daemon.
type place struct {
	client *harness.Client
	events *harness.Events

	mu sync.Mutex
	// shims are the names under which containerd's manager makes the sockets of this side's shims.
	shims map[string]bool
}

// note remembers the shim of a container, or of its group.
func (p *place) note(address string, config harness.ContainerConfig) {
	id := config.ID
	for _, key := range []string{group, "io.kubernetes.cri.sandbox-id"} {
		if pod := config.Annotations[key]; pod != "" {
			id = pod
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shims[fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Join(address, p.client.Namespace, id))))] = true
}

var worlds = struct {
	sync.Mutex
	started map[string]*world
}{started: map[string]*world{}}

func TestMain(m *testing.M) {
	harness.Parallel(6)
	code := m.Run()
	for _, w := range worlds.started {
		if err := w.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func binDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// on returns the target's world, which is made at the first call and ends with the test program.
func on(t testing.TB, target target) *world {
	t.Helper()
	worlds.Lock()
	defer worlds.Unlock()
	if w := worlds.started[target.name]; w != nil {
		return w
	}
	w, err := newWorld(binDir(t), target)
	if w != nil {
		worlds.started[target.name] = w
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func newWorld(bin string, target target) (*world, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	if os.Geteuid() != 0 {
		return nil, errors.New("containers are made here: run the tests as root")
	}
	var server harness.Server
	for _, s := range harness.Servers(bin) {
		if s.Name == target.server {
			server = s
		}
	}
	if _, err := os.Stat(server.StockShim); err != nil || server.Name == "" {
		return nil, fmt.Errorf("containerd %s or its shim is not installed: run `make deps build servers`", target.server)
	}
	tmp, err := os.MkdirTemp("", "parity") // containerd leaves there what it restores from
	if err != nil {
		return nil, err
	}
	var shimPath []string
	if *shimDir != "" {
		shimPath = []string{*shimDir}
	}
	daemon, err := harness.StartDaemon(ctx, harness.DaemonConfig{
		Server: server, BinDir: bin, ShimPath: shimPath, HideUnified: target.binary == "crun", Env: []string{"TMPDIR=" + tmp},
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	w := &world{target: target, daemon: daemon, tmp: tmp, sides: map[string]*place{}}
	if err := harness.NewRootFS(w.wholeRootFS()); err != nil {
		return w, err
	}
	w.watch = harness.Watch{Daemons: []*harness.Daemon{daemon}}
	for _, side := range sides {
		w.watch.CgroupParents = append(w.watch.CgroupParents, w.cgroupParent(side))
	}
	if w.before, err = w.watch.TakeSnapshot(); err != nil {
		return w, err
	}
	for _, side := range sides {
		if err := w.add(side); err != nil {
			return w, fmt.Errorf("%s, %s: %w", target.name, side.name, err)
		}
	}
	return w, nil
}

// cgroupParent of a side's containers is this test run's own.
func (w *world) cgroupParent(side side) string {
	return fmt.Sprintf("/lcs-parity-%d-%s-%s", os.Getpid(), w.target.name, side.name)
}

// ownName is what a name has that is the whole machine's, so that test runs beside each other do not meet.
var ownName = fmt.Sprintf("lcs%d", os.Getpid())

func (w *world) add(side side) error {
	client, err := w.daemon.Client(ownName + "-" + side.name) // it is in the path of runc's default root
	if err != nil {
		return err
	}
	p := &place{client: client, shims: map[string]bool{}}
	w.sides[side.name] = p
	p.events, err = client.Events(context.Background())
	return err
}

// close ends the world, and is an error where something has been left behind.
func (w *world) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	var errs []error
	for _, p := range w.sides {
		// runc keeps the empty directory of a namespace in its default root, where no options name another.
		_ = os.Remove(filepath.Join("/run/containerd/runc", p.client.Namespace))
	}
	if w.before != nil {
		leaks, err := w.watch.Leaks(ctx, w.before)
		errs = append(errs, err)
		for _, leak := range leaks {
			if w.stockLeaves(leak) {
				continue
			}
			errs = append(errs, fmt.Errorf("%s: left behind: %s", w.target.name, leak))
		}
	}
	for _, p := range w.sides {
		if p.events != nil {
			p.events.Close()
		}
	}
	errs = append(errs, w.daemon.Close(), os.RemoveAll(w.tmp))
	for _, parent := range w.watch.CgroupParents {
		harness.RemoveCgroupParent(parent)
	}
	return errors.Join(errs...)
}

// stockLeaves says whether it is the socket of a stock shim: one that is killed, and one whose start containerd gives up, leave
// theirs. Ours does not.
func (w *world) stockLeaves(leak string) bool {
	p := w.sides[stock.name]
	if p == nil {
		return false
	}
	return strings.HasPrefix(leak, "socket: ") && p.shims[filepath.Base(leak)]
}

// wholeRootFS has a whole busybox, which the containers' link to.
func (w *world) wholeRootFS() string { return filepath.Join(w.daemon.Dir, "rootfs", "whole") }

// newRootFS makes one with what the scenarios need of busybox: a whole one takes longer than its container.
func (w *world) newRootFS(dir string) error {
	for _, name := range []string{"bin", "dev", "proc", "sys", "tmp", "mnt"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Link(filepath.Join(w.wholeRootFS(), "bin", "busybox"), filepath.Join(bin, "busybox")); err != nil {
		return err
	}
	for _, name := range []string{"sh", "sleep", "touch", "stty", "head", "tr", "tail", "dd", "mkdir", "true", "cat"} {
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	return nil
}

func parent(pid uint32) (int, error) {
	process, err := harness.ProcessByID(int(pid))
	return process.PPID, err
}
