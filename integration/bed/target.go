package bed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// KeyGroup is the annotation by which containers share a shim.
const KeyGroup = "io.containerd.runc.v2.group"

// Runtime is the runtime type under test.
const Runtime = "io.containerd.lifecycle.v2"

// Annotation keys, as docs/spec.md#keys has them.
const (
	KeyLifecycle = "lifecycle-shim.io/lifecycle"
	KeyPostStart = "lifecycle-shim.io/postStart"
	KeyPreStop   = "lifecycle-shim.io/preStop"
	KeyPreStart  = "lifecycle-shim.io/preStart"
)

// Limit bounds every wait. It is long, as only a failure reaches it.
var Limit = harness.Patience(30 * time.Second)

// Target is a release of containerd and an OCI runtime.
type Target struct {
	Name string
	// Server is the name of the containerd, as harness.Servers has it.
	Server string
	// Binary is the OCI runtime.
	Binary string
}

// The targets. Pinned are the servers that go.mod pins, which most of the tests of one aspect use.
var (
	Pinned  = Target{Name: "2.4-runc", Server: "2.4", Binary: "runc"}
	Crun    = Target{Name: "2.4-crun", Server: "2.4", Binary: "crun"}
	Targets = []Target{
		Pinned, Crun, {Name: "1.7-runc", Server: "1.7", Binary: "runc"}, Oldest,
	}
	// Oldest is Debian's containerd.
	Oldest = Target{Name: "1.6-runc", Server: "1.6", Binary: "runc"}
)

// CgroupParent is the parent of the containers' cgroups in this process's run of the tests.
func (t Target) CgroupParent() string { return fmt.Sprintf("/lcs-%d-%s", os.Getpid(), t.Name) }

// daemons are shared by the tests of a package, one for each target.
var daemons = struct {
	sync.Mutex
	started map[string]*harness.Daemon
}{started: map[string]*harness.Daemon{}}

func closeDaemons() error {
	var errs []error
	for _, d := range daemons.started {
		errs = append(errs, d.Close())
	}
	for _, target := range Targets {
		harness.RemoveCgroupParent(target.CgroupParent())
	}
	return errors.Join(errs...)
}

// BinDir returns the directory of the built programs, in which all that the tests use must exist.
func BinDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"containerd-shim-lifecycle-v2", "lifecycle-hookexec", "containerd", "containerd-1.7", "runc", "criu", "testserver", "testlogger", "testattacker", "lifecyclectl", "previous"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatalf("%v: run `make build servers` first", err)
		}
	}
	return dir
}

// StartDaemon starts a daemon of the target. The caller closes it.
func StartDaemon(t testing.TB, target Target) *harness.Daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the tests create containers: run them as root")
	}
	for _, server := range harness.Servers(BinDir(t)) {
		if server.Name != target.Server {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		d, err := harness.StartDaemon(ctx, harness.DaemonConfig{
			Server: server, BinDir: BinDir(t), Debug: true, HideUnified: target.Binary == "crun",
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	t.Fatalf("containerd %s is not installed: run `make deps servers`", target.Server)
	return nil
}

func sharedDaemon(t testing.TB, target Target) *harness.Daemon {
	t.Helper()
	daemons.Lock()
	defer daemons.Unlock()
	if daemons.started[target.Name] == nil {
		daemons.started[target.Name] = StartDaemon(t, target)
	}
	return daemons.started[target.Name]
}

// Main runs a package's tests, and ends the daemons that they share.
func Main(m *testing.M) int {
	harness.Parallel(16)
	code := m.Run()
	if err := errors.Join(closeCRI(), closeDaemons()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}
