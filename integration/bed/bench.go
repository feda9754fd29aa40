package bed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	_ "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1" // the types of the shim's events, as any client has them
)

// Bench is one test through the task API, under one target.
type Bench struct {
	*testing.T
	Target Target
	Daemon *harness.Daemon
	Client *harness.Client
	Events *harness.Events
	Watch  *harness.Watch
	serial int
	// LogStart is the length of the daemon's log when the test began.
	LogStart int
}

// On runs the test under each of the targets, and looks for leaks after it. They run at the same time: each has its own containerd
// and its own cgroups.
func On(t *testing.T, targets []Target, test func(*Bench)) {
	for _, target := range targets {
		t.Run(target.Name, func(t *testing.T) {
			t.Parallel()
			test(NewBench(t, target, sharedDaemon(t, target)))
		})
	}
}

// OnOwn is On with a daemon for this test alone, which it may stop.
func OnOwn(t *testing.T, targets []Target, test func(*Bench)) {
	for _, target := range targets {
		t.Run(target.Name, func(t *testing.T) {
			t.Parallel()
			daemon := StartDaemon(t, target)
			t.Cleanup(func() {
				if err := daemon.Close(); err != nil {
					t.Error(err)
				}
			})
			test(NewBench(t, target, daemon))
		})
	}
}

// NewBench prepares a test under the daemon: its own namespace, its events, and a leak check at its end.
func NewBench(t *testing.T, target Target, daemon *harness.Daemon) *Bench {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", ".", "-", "#", "-").Replace(t.Name()))
	name = fmt.Sprintf("%d-%s", os.Getpid(), name)                                  // without options the machine's runc has it in a path
	client, err := daemon.Client(strings.TrimRight(name[:min(len(name), 76)], "-")) // the most that containerd's pkg/identifiers accepts
	if err != nil {
		t.Fatal(err)
	}
	watch := &harness.Watch{Daemons: []*harness.Daemon{daemon}, CgroupParents: []string{target.CgroupParent()}}
	before, err := watch.TakeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	events, err := client.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := &Bench{T: t, Target: target, Daemon: daemon, Client: client, Events: events, Watch: watch, LogStart: len(daemon.Log())}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		// runc keeps the empty directory of a namespace in its default root if the options name no other.
		_ = os.Remove(filepath.Join("/run/containerd/runc", client.Namespace))
		leaks, err := watch.Leaks(ctx, before)
		if err != nil {
			t.Error(err)
		}
		for _, leak := range leaks {
			t.Errorf("left behind: %v", leak)
		}
		for _, bug := range bugsIn(daemon.Log()) {
			t.Errorf("the shim's log has %q", bug)
		}
		if t.Failed() {
			t.Logf("containerd's log ends with:\n%s", LastLines(daemon.Log(), 40))
		}
	})
	return b
}

// bugsIn returns the words of a log that mean a bug in any test.
func bugsIn(log string) []string {
	var found []string
	for _, bug := range []string{"DATA RACE", "panic in ", "goroutine 1 ["} {
		if strings.Contains(log, bug) {
			found = append(found, bug)
		}
	}
	return found
}

// LastLines returns at most count lines of the text, the last ones.
func LastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// Options are TOML for the shim, as `ctr run --runtime-config-path` or an options table of CRI gives it.
func (b *Bench) Options(more string) *runtimeoptions.Options {
	body := fmt.Sprintf("Root = %q\nBinaryName = %q\n%s", b.Daemon.RuncRoot, b.Target.Binary, more)
	return &runtimeoptions.Options{ConfigBody: []byte(body)}
}

// Poll waits until done returns true, and ends the test after Limit.
func (b *Bench) Poll(what string, done func() bool) {
	b.Helper()
	Poll(b.T, what, done)
}
