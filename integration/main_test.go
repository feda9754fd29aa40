package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	_ "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1" // the schema of the shim's events, as any client would use it
)

// Runtime is the runtime type under test.
const Runtime = "io.containerd.lifecycle.v2"

// Annotation keys, as docs/spec.md#keys has them.
const (
	keyLifecycle = "lifecycle-shim.io/lifecycle"
	keyPostStart = "lifecycle-shim.io/postStart"
	keyPreStop   = "lifecycle-shim.io/preStop"
)

// limit bounds every wait. It is long, because it is only reached by a failure.
var limit = harness.Patience(30 * time.Second)

// target is a containerd with an OCI runtime to test under.
type target struct {
	name   string
	server string
	// binary is the OCI runtime.
	binary string
}

var (
	pinned  = target{name: "2.4-runc", server: "2.4", binary: "runc"}
	crun    = target{name: "2.4-crun", server: "2.4", binary: "crun"}
	targets = []target{
		pinned, crun,
		{name: "1.7-runc", server: "1.7", binary: "runc"},
		{name: "1.6-runc", server: "1.6", binary: "runc"},
	}
)

// cgroupParent is this test run's own.
func (t target) cgroupParent() string { return fmt.Sprintf("/lcs-%d-%s", os.Getpid(), t.name) }

// daemons are shared by the tests, one for each target.
var daemons = struct {
	sync.Mutex
	started map[string]*harness.Daemon
}{started: map[string]*harness.Daemon{}}

// TestMain: docs/spec.md#servers.
func TestMain(m *testing.M) {
	harness.Parallel(16)
	code := m.Run()
	if err := errors.Join(closeCRI(), closeDaemons()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func closeDaemons() error {
	var errs []error
	for _, d := range daemons.started {
		errs = append(errs, d.Close())
	}
	for _, target := range targets {
		harness.RemoveCgroupParent(target.cgroupParent())
	}
	return errors.Join(errs...)
}

func binDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../bin")
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

// startDaemon starts a daemon of the target. The caller closes it.
func startDaemon(t testing.TB, target target) *harness.Daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("containers are made here: run the tests as root")
	}
	for _, server := range harness.Servers(binDir(t)) {
		if server.Name != target.server {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		d, err := harness.StartDaemon(ctx, harness.DaemonConfig{
			Server: server, BinDir: binDir(t), Debug: true, HideUnified: target.binary == "crun",
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	t.Fatalf("containerd %s is not installed: run `make deps servers`", target.server)
	return nil
}

func sharedDaemon(t testing.TB, target target) *harness.Daemon {
	t.Helper()
	daemons.Lock()
	defer daemons.Unlock()
	if daemons.started[target.name] == nil {
		daemons.started[target.name] = startDaemon(t, target)
	}
	return daemons.started[target.name]
}

// bench is what one test works with.
type bench struct {
	*testing.T
	target target
	daemon *harness.Daemon
	client *harness.Client
	events *harness.Events
	watch  *harness.Watch
	serial int
	// logged is how long the daemon's log was when the test began.
	logged int
}

// on runs the test under each of the targets, and looks for leaks after it. They
// run side by side: each has its own containerd, and its own cgroups.
func on(t *testing.T, targets []target, test func(*bench)) {
	for _, target := range targets {
		t.Run(target.name, func(t *testing.T) {
			t.Parallel()
			test(newBench(t, target, sharedDaemon(t, target)))
		})
	}
}

// onOwn is on with a daemon of the test's own, which it may stop.
func onOwn(t *testing.T, targets []target, test func(*bench)) {
	for _, target := range targets {
		t.Run(target.name, func(t *testing.T) {
			t.Parallel()
			daemon := startDaemon(t, target)
			t.Cleanup(func() {
				if err := daemon.Close(); err != nil {
					t.Error(err)
				}
			})
			test(newBench(t, target, daemon))
		})
	}
}

func newBench(t *testing.T, target target, daemon *harness.Daemon) *bench {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", ".", "-", "#", "-").Replace(t.Name()))
	name = fmt.Sprintf("%d-%s", os.Getpid(), name)                                  // without options it is in a path of the machine's
	client, err := daemon.Client(strings.TrimRight(name[:min(len(name), 76)], "-")) // at most so much, containerd's pkg/identifiers
	if err != nil {
		t.Fatal(err)
	}
	watch := &harness.Watch{Daemons: []*harness.Daemon{daemon}, CgroupParents: []string{target.cgroupParent()}}
	before, err := watch.TakeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	events, err := client.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, target: target, daemon: daemon, client: client, events: events, watch: watch, logged: len(daemon.Log())}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		// runc keeps the empty directory of a namespace in its default root, where no options name another.
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
			t.Logf("containerd's log ends with:\n%s", lastLines(daemon.Log(), 40))
		}
	})
	return b
}

// bugsIn a log are what no test may provoke, whatever it is about.
func bugsIn(log string) []string {
	var found []string
	for _, bug := range []string{"DATA RACE", "panic in ", "goroutine 1 ["} {
		if strings.Contains(log, bug) {
			found = append(found, bug)
		}
	}
	return found
}

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// options are TOML for the shim, as `ctr run --runtime-config-path` or a CRI
// options table would give it.
func (b *bench) options(more string) *runtimeoptions.Options {
	body := fmt.Sprintf("Root = %q\nBinaryName = %q\n%s", b.daemon.RuncRoot, b.target.binary, more)
	return &runtimeoptions.Options{ConfigBody: []byte(body)}
}

// container is one under test.
type container struct {
	*harness.Container
	files // its root filesystem
	b     *bench
}

// with is a container's annotations.
type with map[string]string

// newContainer makes the record of a container, which the test's end removes.
func (b *bench) newContainer(annotations with, args []string, edit ...func(*harness.ContainerConfig)) *container {
	b.Helper()
	b.serial++
	config := harness.ContainerConfig{
		ID: fmt.Sprintf("c%d", b.serial), Args: args, Runtime: Runtime, Options: b.options(""),
		Annotations: annotations, CgroupParent: b.target.cgroupParent(),
	}
	for _, e := range edit {
		e(&config)
	}
	c, err := b.client.NewContainer(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := c.Remove(ctx); err != nil {
			b.Error(err)
		}
	})
	return &container{Container: c, files: files{b.T, c.RootFS}, b: b}
}

// run creates and starts a container, which must succeed.
func (b *bench) run(annotations with, args []string, edit ...func(*harness.ContainerConfig)) *container {
	b.Helper()
	c := b.newContainer(annotations, args, edit...)
	if _, _, err := c.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
	return c
}

// started is how a start, or another request that takes its time, went.
type started struct {
	err  error
	took time.Duration
}

// runLater creates the container and starts it in the background.
func (b *bench) runLater(annotations with, args []string, edit ...func(*harness.ContainerConfig)) (*container, <-chan started) {
	b.Helper()
	c := b.newContainer(annotations, args, edit...)
	if _, err := c.Create(b.Context()); err != nil {
		b.Fatal(err)
	}
	return c, c.startLater()
}

// startLater starts the container in the background.
func (c *container) startLater() <-chan started {
	return later(func() (time.Duration, error) { _, took, err := c.Start(c.b.Context()); return took, err })
}

func (c *container) state() harness.State {
	c.b.Helper()
	state, err := c.State(c.b.Context())
	if err != nil {
		c.b.Fatal(err)
	}
	return state
}

// wantExit waits for the container's exit and its status.
func (c *container) wantExit(status uint32) {
	c.b.Helper()
	ctx, cancel := context.WithTimeout(c.b.Context(), limit)
	defer cancel()
	got, err := c.Wait(ctx)
	if err != nil {
		c.b.Fatal(err)
	}
	if got != status {
		c.b.Errorf("exit status %d, want %d", got, status)
	}
}

// end kills the container and deletes its task.
func (c *container) end(status uint32) {
	c.b.Helper()
	if _, err := c.Kill(c.b.Context(), syscall.SIGKILL); err != nil {
		c.b.Fatal(err)
	}
	c.wantExit(status)
	if _, _, err := c.Delete(c.b.Context()); err != nil {
		c.b.Fatal(err)
	}
}

// kill sends a signal, which must be accepted.
func (c *container) kill(signal syscall.Signal) time.Duration {
	c.b.Helper()
	took, err := c.Kill(c.b.Context(), signal)
	if err != nil {
		c.b.Fatal(err)
	}
	return took
}

func (b *bench) poll(what string, done func() bool) {
	b.Helper()
	poll(b.T, what, done)
}

// wantTopics waits until the container's task events are these. TaskDelete may
// come before TaskExit, under the stock shim too: a client that deletes right
// after Wait is faster than the publishing of the exit.
func (c *container) wantTopics(want ...string) {
	c.b.Helper()
	wantTopics(c.b.T, func() []string { return c.b.topics(c.ID) }, want...)
}

// wantAllTopics is wantTopics with the events of handlers among them.
func (c *container) wantAllTopics(want ...string) {
	c.b.Helper()
	wantTopicsBelow(c.b.T, []string{"/tasks/", "/lifecycle/"}, func() []string { return c.b.topics(c.ID) }, want...)
}

func wantTopics(t *testing.T, topics func() []string, want ...string) {
	t.Helper()
	wantTopicsBelow(t, []string{"/tasks/"}, topics, want...)
}

func wantTopicsBelow(t *testing.T, prefixes []string, topics func() []string, want ...string) {
	t.Helper()
	var got []string
	err := harness.Poll(t.Context(), limit, "the events", func() (bool, error) {
		got = nil
		var last []string
		for _, topic := range topics() {
			switch {
			case topic == deleted, topic == oom: // in no order to the others (PARITY.md)
				last = append(last, topic)
			case slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(topic, prefix) }):
				got = append(got, topic)
			}
		}
		slices.Sort(last)
		got = append(got, slices.CompactFunc(last, func(a, b string) bool { return a == oom && b == oom })...) // cgroup v1 may tell it again
		return len(got) >= len(want), nil
	})
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("events %v, want %v (%v)", got, want, err)
	}
}

// topics of the container of this test: ids are used again in other namespaces.
func (b *bench) topics(id string) []string {
	var topics []string
	for _, event := range b.events.Of(id) {
		if event.Namespace == b.client.Namespace {
			topics = append(topics, event.Topic)
		}
	}
	return topics
}

func (b *bench) result(result <-chan started) started {
	b.Helper()
	return answer(b.T, result)
}

// answer to a request that is being made in the background.
func answer(t *testing.T, result <-chan started) started {
	t.Helper()
	select {
	case r := <-result:
		return r
	case <-time.After(2 * limit): // a stop may have limit for its grace period
		t.Fatal("the request is not answered")
		return started{}
	}
}

func (b *bench) wantError(err error, parts ...string) {
	b.Helper()
	wantError(b.T, err, parts...)
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
}

// A handler that tells the test that it has begun, and waits for it to go on. Like all that is steered, it
// does so in its working directory.
const waiting = `touch begun; while [ ! -e go ]; do sleep 0.02; done; `

// A handler that waits until the container says that it is ready.
const onceReady = `while [ ! -e ready ]; do sleep 0.02; done; `

// shell is a handler, in YAML, that runs a shell script.
func shell(script string) string {
	return fmt.Sprintf("exec: {command: [/bin/sh, -c, %q]}", script)
}

// forever is a command that says when it gets SIGTERM, and goes on. Once ready, it forks no more.
var forever = []string{"/bin/sh", "-c", `trap 'echo TERM >> signals' TERM; trap 'echo HUP >> signals' HUP; trap 'echo USR1 >> signals' USR1; sleep 1000 & touch ready; while :; do wait; done`}

// obedient is one that exits with 7 when it gets SIGTERM, and forks no more either.
var obedient = []string{"/bin/sh", "-c", `trap 'echo TERM >> signals; exit 7' TERM; sleep 1000 & touch ready; while :; do wait; done`}
