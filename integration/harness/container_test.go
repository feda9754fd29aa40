package harness_test

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// cgroupParent is this test run's own, and that of the process that it starts to be killed.
var cgroupParent = cmp.Or(os.Getenv(victim), fmt.Sprintf("/lcs-harness-test-%d", os.Getpid()))

// bench is a daemon with a client that listens, and a leak check at the end of the test.
type bench struct {
	daemon *harness.Daemon
	client *harness.Client
	events *harness.Events
}

func newBench(t *testing.T, cfg harness.DaemonConfig) bench {
	t.Helper()
	d := start(t, cfg)
	client, err := d.Client("harness")
	if err != nil {
		t.Fatal(err)
	}
	events, err := client.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(events.Close)
	return bench{daemon: d, client: client, events: events}
}

func (b bench) watch() harness.Watch {
	w := harness.Watch{CgroupParents: []string{cgroupParent}}
	if b.daemon != nil {
		w.Daemons = []*harness.Daemon{b.daemon}
	}
	return w
}

func TestStockContainer(t *testing.T) {
	forEachServer(t, func(t *testing.T, s harness.Server) {
		b := newBench(t, harness.DaemonConfig{Server: s})
		before := snapshot(t, b)
		c := newContainer(t, b, harness.ContainerConfig{
			ID: "a", Args: []string{"sh", "-c", `trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done`},
		})
		lifeOfContainer(t, b, c)
		noLeaks(t, b, before)
	})
}

// crun runs the same container, where the hybrid cgroup mount is hidden from it.
func TestCrunContainer(t *testing.T) {
	forEachServer(t, func(t *testing.T, s harness.Server) {
		b := newBench(t, harness.DaemonConfig{Server: s, HideUnified: true})
		before := snapshot(t, b)
		c := newContainer(t, b, harness.ContainerConfig{
			ID: "a", Args: []string{"sh", "-c", `trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done`},
			Options: &runcoptions.Options{BinaryName: "crun", Root: b.daemon.RuncRoot},
		})
		lifeOfContainer(t, b, c)
		noLeaks(t, b, before)
	})
}

func newContainer(t *testing.T, b bench, cfg harness.ContainerConfig) *harness.Container {
	t.Helper()
	cfg.CgroupParent = cgroupParent
	c, err := b.client.NewContainer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func snapshot(t *testing.T, b bench) harness.Snapshot {
	t.Helper()
	s, err := b.watch().TakeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func noLeaks(t *testing.T, b bench, before harness.Snapshot) {
	t.Helper()
	defer harness.RemoveCgroupParent(cgroupParent)
	leaks, err := b.watch().Leaks(t.Context(), before)
	if err != nil {
		t.Errorf("leak check: %v", err)
	}
	for _, leak := range leaks {
		t.Errorf("left behind: %s", leak)
	}
}

// lifeOfContainer goes through every call once: create, start, state, kill, wait, delete.
func lifeOfContainer(t *testing.T, b bench, c *harness.Container) {
	t.Helper()
	ctx := t.Context()
	pid, took, err := c.Run(ctx)
	if err != nil {
		t.Fatalf("Run: %v\n%s", err, b.daemon.Log())
	}
	t.Logf("start took %v", took)
	state, err := c.State(ctx)
	if err != nil || state.Status != task.Status_RUNNING || state.PID != pid {
		t.Errorf("State: %+v, %v; want RUNNING with pid %d", state, err, pid)
	}
	// Not before the trap is set.
	err = harness.Poll(ctx, 5*time.Second, "the container's first line", func() (bool, error) {
		return strings.Contains(c.Output(), "ready"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kill(ctx, syscall.SIGTERM); err != nil {
		t.Fatalf("Kill: %v", err)
	}
	if status, err := c.Wait(ctx); err != nil || status != 7 {
		t.Errorf("Wait: status %d, %v; want 7", status, err)
	}
	// Delete right after Wait may overtake the exit event: the shim publishes in the background.
	if _, err := b.events.WaitFor(ctx, 5*time.Second, c.ID, "/tasks/exit"); err != nil {
		t.Error(err)
	}
	if status, _, err := c.Delete(ctx); err != nil || status != 7 {
		t.Errorf("Delete: status %d, %v; want 7", status, err)
	}
	if _, err := c.State(ctx); !errdefs.IsNotFound(err) {
		t.Errorf("State after Delete: %v; want not found", err)
	}
	if err := c.Remove(ctx); err != nil {
		t.Errorf("Remove: %v", err)
	}
	// No "/tasks/delete": the stock shim may end before it has published it.
	got := slices.DeleteFunc(b.events.Topics(c.ID), func(topic string) bool {
		return !strings.HasPrefix(topic, "/tasks/") || topic == "/tasks/delete"
	})
	if want := []string{"/tasks/create", "/tasks/start", "/tasks/exit"}; !slices.Equal(got, want) {
		t.Errorf("events: got %v, want %v", got, want)
	}
}
