package task

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const (
	meetings = 60
	// mostFailures is how many Creates fail under Debian's 1.6 with its stock shim, on the development machine.
	mostFailures = 15
)

// meetingTargets have the newest and the oldest server.
var meetingTargets = []bed.Target{bed.Pinned, bed.Oldest}

func TestCreateMeetsTheEndOfASharedShim(t *testing.T) {
	for name, annotations := range map[string]bed.Annotations{
		"without handlers": {},
		"with handlers":    {bed.KeyPostStart: bed.Shell("true"), bed.KeyPreStop: bed.Shell("true")},
	} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, meetingTargets, func(b *bed.Bench) {
				m := meeting{client: b.Client, runtime: bed.Runtime, options: b.Options(""), annotations: annotations, cgroups: b.Target.CgroupParent()}
				failures := m.all(b.T)
				for _, err := range failures {
					b.Logf("a Create failed: %v", err)
				}
				if len(failures) >= mostFailures {
					b.Errorf("%d of %d Creates failed", len(failures), meetings)
				}
				b.Logf("%d of %d Creates failed", len(failures), meetings)
				// FAULTS C6: containerd's watcher of OOM events on cgroup v1.
				if got := strings.Count(b.Daemon.Log()[b.LogStart:], "cgroups: epoll wait"); got > 0 {
					b.Errorf("the shims that ended have logged %d times that epoll_wait fails", got)
				}
			}) // which finds leftovers
		})
	}
}

// TestStockCreateMeetsTheEndOfASharedShim only measures, for comparison.
func TestStockCreateMeetsTheEndOfASharedShim(t *testing.T) {
	for _, target := range meetingTargets {
		t.Run(target.Name, func(t *testing.T) {
			daemon := bed.StartDaemon(t, target)
			cgroups := target.CgroupParent() + "-stock"
			t.Cleanup(func() {
				killBelow(cgroups)
				if err := daemon.Close(); err != nil {
					t.Error(err)
				}
				harness.RemoveCgroupTree(cgroups)
			})
			client, err := daemon.Client("stock")
			if err != nil {
				t.Fatal(err)
			}
			watch := harness.Watch{Daemons: []*harness.Daemon{daemon}, CgroupParents: []string{cgroups}}
			m := meeting{client: client, runtime: harness.StockRuntime, cgroups: cgroups}
			failures := m.all(t)
			leaks, err := watch.Leaks(t.Context(), harness.Snapshot{})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("under the stock shim %d of %d Creates failed, and %d processes, cgroups, mounts and sockets stayed", len(failures), meetings, len(leaks))
		})
	}
}

// killBelow ends what a dead shim has left in cgroups of this test's own.
func killBelow(parent string) {
	var pids []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		files, _ := filepath.Glob(filepath.Join(pattern, parent, "*", "cgroup.procs"))
		for _, file := range files {
			text, _ := os.ReadFile(file)
			pids = append(pids, strings.Fields(string(text))...)
		}
	}
	for _, pid := range pids {
		if id, err := strconv.Atoi(pid); err == nil && id > 1 {
			_ = syscall.Kill(id, syscall.SIGKILL)
		}
	}
}

// meeting is how the containers that meet are made.
type meeting struct {
	client      *harness.Client
	runtime     string
	options     any
	annotations bed.Annotations
	cgroups     string
}

// all lets Creates and Deletes meet, and returns the errors of the Creates that failed. Nothing else may fail.
func (m meeting) all(t *testing.T) []error {
	t.Helper()
	var mu sync.Mutex
	var failures []error
	var group errgroup.Group
	group.SetLimit(4)
	for i := range meetings {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 4*bed.Limit)
			defer cancel()
			failure, err := m.one(ctx, i)
			if failure != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, failure)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	return failures
}

func (m meeting) container(ctx context.Context, id, group string) (*harness.Container, error) {
	annotations := map[string]string{bed.KeyGroup: group}
	for key, value := range m.annotations {
		annotations[key] = value
	}
	return m.client.NewContainer(ctx, harness.ContainerConfig{
		ID: id, Args: bed.Forever, Runtime: m.runtime, Options: m.options, Annotations: annotations, CgroupParent: m.cgroups,
	})
}

// one returns why the Create failed, and what else did. The Create comes from 30 ms before the Delete to 30 ms after it.
func (m meeting) one(ctx context.Context, i int) (failure, err error) {
	group := fmt.Sprintf("group%d", i)
	first, err := m.container(ctx, fmt.Sprintf("first%d", i), group)
	if err != nil {
		return nil, err
	}
	defer func() { err = joinRemoval(err, first) }()
	second, err := m.container(ctx, fmt.Sprintf("second%d", i), group)
	if err != nil {
		return nil, err
	}
	defer func() { err = joinRemoval(err, second) }()
	if _, _, err := first.Run(ctx); err != nil {
		return nil, fmt.Errorf("the first container: %w", err)
	}
	if _, err := first.Kill(ctx, syscall.SIGKILL); err != nil {
		return nil, err
	}
	if _, err := first.Wait(ctx); err != nil {
		return nil, err
	}
	offset := time.Duration(i-meetings/2) * time.Millisecond
	deleted := make(chan error, 1)
	go func() {
		<-time.After(max(-offset, 0))
		_, _, err := first.Delete(ctx)
		deleted <- err
	}()
	<-time.After(max(offset, 0))
	_, failure = second.Create(ctx)
	if err := <-deleted; err != nil {
		return failure, fmt.Errorf("the Delete of the first container: %w", err)
	}
	if failure != nil {
		return failure, nil
	}
	if _, _, err := second.Start(ctx); err != nil {
		return nil, fmt.Errorf("the second container was created, and then: %w", err)
	}
	return nil, nil
}

func joinRemoval(err error, c *harness.Container) error {
	ctx, cancel := context.WithTimeout(context.Background(), bed.Limit)
	defer cancel()
	if removal := c.Remove(ctx); err == nil {
		return removal
	}
	return err
}
