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
	"testing"
	"time"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The runtime handlers, as the README has them.
const (
	handlerLifecycle = "lifecycle"
	// handlerUserNS is for pods in user namespaces: containerd gives their
	// containers options of runc's type, and insists on a runtime of that type.
	handlerUserNS = "lifecycle-userns"
	// handlerImpatient has a setting in its options.
	handlerImpatient = "lifecycle-impatient"
)

// imageServer holds the tests' server and nothing else.
const imageServer = "localhost/lifecycle-shim/testserver:test"

// keyGrace is the kubelet's, which the README's configuration lets through.
const keyGrace = "io.kubernetes.pod.terminationGracePeriod"

// podHost is a containerd with CRI and NRI, and what there was before its first
// pod.
type podHost struct {
	daemon *harness.Daemon
	cri    *harness.CRI
	events *harness.Events
	watch  harness.Watch
	before harness.Snapshot
}

func (h *podHost) cgroupParent() string { return "/" + filepath.Base(h.daemon.Dir) }

// newPodHost starts one, with these images. watch says what to look at besides the
// daemon's own.
func newPodHost(t *testing.T, watch harness.Watch, images ...string) *podHost {
	t.Helper()
	bin := binDir(t)
	return startPodHost(t, harness.DaemonConfig{
		Server: harness.Servers(bin)[0], BinDir: bin, Debug: true, CRI: true, NRI: true,
		Handlers: map[string]harness.RuntimeHandler{
			handlerLifecycle: {Type: Runtime},
			handlerUserNS:    {Type: harness.StockRuntime, Path: filepath.Join(bin, "containerd-shim-lifecycle-v2")},
			handlerImpatient: {Type: Runtime, Options: `DefaultPostStartTimeout = "1s"`},
		},
	}, watch, images...)
}

// startPodHost starts one with that configuration.
func startPodHost(t *testing.T, config harness.DaemonConfig, watch harness.Watch, images ...string) *podHost {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	d, err := harness.StartDaemon(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	h := &podHost{daemon: d, watch: watch}
	if err := h.prepare(ctx, images); err != nil {
		t.Fatal(errors.Join(err, d.Close()))
	}
	return h
}

func (h *podHost) prepare(ctx context.Context, images []string) (err error) {
	h.watch.Daemons, h.watch.CgroupParents = []*harness.Daemon{h.daemon}, []string{h.cgroupParent()}
	if h.before, err = h.watch.TakeSnapshot(); err != nil {
		return err
	}
	if h.cri, err = h.daemon.CRI(); err != nil {
		return err
	}
	if err := h.cri.ImportImages(ctx, images...); err != nil {
		return err
	}
	h.events, err = h.cri.Client().Events(context.WithoutCancel(ctx)) // until the daemon ends
	return err
}

// close ends the daemon, and reports what its pods have left behind.
func (h *podHost) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	leaks, err := h.watch.Leaks(ctx, h.before)
	errs := []error{err}
	for _, leak := range leaks {
		errs = append(errs, fmt.Errorf("left behind: %s", leak))
	}
	log := h.daemon.Log()
	for _, bug := range bugsIn(log) {
		errs = append(errs, fmt.Errorf("the shim's log has %q", bug))
	}
	h.events.Close()
	errs = append(errs, h.daemon.Close())
	harness.RemoveCgroupParent(h.cgroupParent())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w\ncontainerd's log ends with:\n%s", err, lastLines(log, 40))
	}
	return nil
}

// sharedPodHost is for all tests that leave containerd alone: parallel tests
// have no other way to look for leaks than when all of them are over.
var sharedPodHost = struct {
	sync.Mutex
	*podHost
}{}

func newSharedPodHost(t *testing.T) *podHost {
	t.Helper()
	h := newPodHost(t, harness.Watch{NetNS: true, Sysctls: true}, harness.ImageBusybox, harness.ImageBusyboxQuit, harness.ImageBusyboxWinch)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := h.cri.ImportBinary(ctx, imageServer, filepath.Join(binDir(t), "testserver")); err != nil {
		t.Fatal(errors.Join(err, h.close()))
	}
	return h
}

func closeCRI() error {
	if sharedPodHost.podHost == nil {
		return nil
	}
	return sharedPodHost.close()
}

// podBench is what one test through CRI works with.
type podBench struct {
	*testing.T
	*podHost
	pods int
}

// onCRI lets the test run beside others, under a containerd that it shares with
// them.
func onCRI(t *testing.T) *podBench {
	t.Helper()
	t.Parallel()
	sharedPodHost.Lock()
	defer sharedPodHost.Unlock()
	if sharedPodHost.podHost == nil {
		sharedPodHost.podHost = newSharedPodHost(t)
	}
	return newPodBench(t, sharedPodHost.podHost)
}

// onOwnCRI is onCRI with a containerd that the test may restart.
func onOwnCRI(t *testing.T) *podBench {
	t.Helper()
	t.Parallel()
	return onPodHost(t, newPodHost(t, harness.Watch{}, harness.ImageBusybox))
}

// onPodHost ends the host with the test.
func onPodHost(t *testing.T, h *podHost) *podBench {
	t.Helper()
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
	return newPodBench(t, h)
}

func newPodBench(t *testing.T, h *podHost) *podBench {
	t.TempDir() // asked for before the first pod, temporary directories go after the last one
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log ends with:\n%s", lastLines(h.daemon.Log(), 300)) // of the tests beside it too
		}
	})
	return &podBench{T: t, podHost: h}
}

// pod runs a pod with these annotations, without containers. It is on the host's
// network, for speed, unless an edit says otherwise. The test's end removes it.
func (b *podBench) pod(annotations with, edit ...func(*harness.PodConfig)) *harness.Pod {
	b.Helper()
	b.pods++
	config := harness.PodConfig{
		Name: fmt.Sprintf("%s-%d", b.Name(), b.pods), Handler: handlerLifecycle, Annotations: annotations,
		CgroupParent: b.cgroupParent(), HostNetwork: true,
	}
	for _, e := range edit {
		e(&config)
	}
	pod, err := b.cri.RunPod(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := pod.Remove(ctx); err != nil {
			b.Error(err)
		}
	})
	return pod
}

// podContainer is a container under test.
type podContainer struct {
	*harness.PodContainer
	files // its working directory
	b     *podBench
}

// create makes a container in the pod, which runs args unless an edit says
// otherwise.
func (b *podBench) create(pod *harness.Pod, args []string, edit ...func(*harness.PodContainerConfig)) *podContainer {
	b.Helper()
	config := harness.PodContainerConfig{Name: "app", Args: args, Dir: b.TempDir()}
	if err := os.Chmod(config.Dir, 0o777); err != nil { // for containers in a user namespace
		b.Fatal(err)
	}
	for _, e := range edit {
		e(&config)
	}
	c, err := pod.Create(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	return &podContainer{PodContainer: c, files: files{b.T, config.Dir}, b: b}
}

// app is the one container of a pod with that lifecycle block.
func (b *podBench) app(block string, args []string, edit ...func(*harness.PodContainerConfig)) *podContainer {
	b.Helper()
	return b.create(b.pod(with{keyLifecycle: block}), args, edit...)
}

// run is app, started and ready.
func (b *podBench) run(block string, args []string, edit ...func(*harness.PodContainerConfig)) *podContainer {
	b.Helper()
	c := b.app(block, args, edit...)
	c.start()
	c.waitFor("ready")
	return c
}

// hold starts the container and waits until its postStart, a waiting one, runs.
func (c *podContainer) hold() <-chan started {
	c.b.Helper()
	result := c.startLater(c.b.Context())
	c.waitFor("begun")
	return result
}

// start must succeed.
func (c *podContainer) start() {
	c.b.Helper()
	if r := answer(c.b.T, c.startLater(c.b.Context())); r.err != nil {
		c.b.Fatal(r.err)
	}
}

// startLater starts the container in the background.
func (c *podContainer) startLater(ctx context.Context) <-chan started {
	return later(func() (time.Duration, error) { return c.Start(ctx) })
}

// stopLater stops it in the background.
func (c *podContainer) stopLater(timeout time.Duration) <-chan started {
	return later(func() (time.Duration, error) { return c.Stop(c.b.Context(), timeout) })
}

func later(request func() (time.Duration, error)) <-chan started {
	result := make(chan started, 1)
	go func() {
		took, err := request()
		result <- started{err, took}
	}()
	return result
}

// stop must succeed.
func (c *podContainer) stop(timeout time.Duration) (took time.Duration) {
	c.b.Helper()
	return c.stopped(c.stopLater(timeout))
}

// stopped waits for a stop, which must succeed.
func (c *podContainer) stopped(result <-chan started) (took time.Duration) {
	c.b.Helper()
	r := answer(c.b.T, result)
	if r.err != nil {
		c.b.Fatal(r.err)
	}
	return r.took
}

func (c *podContainer) status() *cri.ContainerStatus {
	c.b.Helper()
	status, err := c.Status(c.b.Context())
	if err != nil {
		c.b.Fatal(err)
	}
	return status
}

func (c *podContainer) wantState(want cri.ContainerState) {
	c.b.Helper()
	if got := c.status().State; got != want {
		c.b.Errorf("CRI says %s, want %s", got, want)
	}
}

// wantExit waits until CRI knows of the exit, which it learns from an event.
func (c *podContainer) wantExit(code int32) *cri.ContainerStatus {
	c.b.Helper()
	var status *cri.ContainerStatus
	poll(c.b.T, "the container's exit", func() bool {
		status = c.status()
		return status.State == cri.ContainerState_CONTAINER_EXITED
	})
	if status.ExitCode != code {
		c.b.Errorf("exit code %d, want %d: %v", status.ExitCode, code, status)
	}
	return status
}

// wantFailedStart looks at what the kubelet gets: the words, twice.
func (c *podContainer) wantFailedStart(err error, parts ...string) {
	c.b.Helper()
	wantError(c.b.T, err, parts...)
	c.wantStartError(parts...)
}

// wantStartError looks at what CRI keeps of a start that has failed.
func (c *podContainer) wantStartError(parts ...string) {
	c.b.Helper()
	const startError = 128
	status := c.wantExit(startError)
	if status.Reason != "StartError" {
		c.b.Errorf("reason %q, want StartError", status.Reason)
	}
	wantError(c.b.T, errors.New(status.Message), parts...)
}

// wantGone waits until the shim knows nothing of the container any more.
func (c *podContainer) wantGone() {
	c.b.Helper()
	poll(c.b.T, "the task to go", func() bool {
		_, err := c.Task().State(c.b.Context())
		return errdefs.IsNotFound(err)
	})
}

func (c *podContainer) wantSignals(want string) {
	c.b.Helper()
	got := ""
	if c.exists("signals") {
		got = c.read("signals")
	}
	if got != want {
		c.b.Errorf("signals %q, want %q", got, want)
	}
}

func (c *podContainer) wantTopics(want ...string) {
	c.b.Helper()
	wantTopics(c.b.T, func() []string { return c.b.events.Topics(c.ID) }, want...)
}

// logged tells whether a line of the log that is about the container has these words.
func (c *podContainer) logged(words ...string) bool {
	for line := range strings.Lines(c.b.daemon.Log()) {
		if !strings.Contains(line, c.ID) {
			continue
		}
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			return true
		}
	}
	return false
}
