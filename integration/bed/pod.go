package bed

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The runtime handlers, as the README has them.
const (
	HandlerLifecycle = "lifecycle"
	// HandlerUserNS is for pods in user namespaces: containerd gives their
	// containers options of runc's type, and insists on a runtime of that type.
	HandlerUserNS = "lifecycle-userns"
	// HandlerImpatient has a setting in its options.
	HandlerImpatient = "lifecycle-impatient"
)

// ImageServer holds the tests' server and nothing else.
const ImageServer = "localhost/lifecycle-shim/testserver:test"

// KeyGrace is the kubelet's, which the README's configuration lets through.
const KeyGrace = "io.kubernetes.pod.terminationGracePeriod"

// podHost is a containerd with CRI and NRI, and what there was before its first
// pod.
type podHost struct {
	Daemon *harness.Daemon
	CRI    *harness.CRI
	Events *harness.Events
	Watch  harness.Watch
	before harness.Snapshot
}

func (h *podHost) CgroupParent() string { return "/" + filepath.Base(h.Daemon.Dir) }

// newPodHost starts one, with these images. watch says what to look at besides the
// daemon's own.
func newPodHost(t *testing.T, watch harness.Watch, images ...string) *podHost {
	t.Helper()
	bin := BinDir(t)
	return StartPodHost(t, harness.DaemonConfig{
		Server: harness.Servers(bin)[0], BinDir: bin, Debug: true, CRI: true, NRI: true,
		Handlers: map[string]harness.RuntimeHandler{
			HandlerLifecycle: {Type: Runtime},
			HandlerUserNS:    {Type: harness.StockRuntime, Path: filepath.Join(bin, "containerd-shim-lifecycle-v2")},
			HandlerImpatient: {Type: Runtime, Options: `DefaultPostStartTimeout = "1s"`},
		},
	}, watch, images...)
}

// StartPodHost starts one with that configuration.
func StartPodHost(t *testing.T, config harness.DaemonConfig, watch harness.Watch, images ...string) *podHost {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*Limit)
	defer cancel()
	d, err := harness.StartDaemon(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	h := &podHost{Daemon: d, Watch: watch}
	if err := h.prepare(ctx, images); err != nil {
		t.Fatal(errors.Join(err, d.Close()))
	}
	return h
}

func (h *podHost) prepare(ctx context.Context, images []string) (err error) {
	h.Watch.Daemons, h.Watch.CgroupParents = []*harness.Daemon{h.Daemon}, []string{h.CgroupParent()}
	if h.before, err = h.Watch.TakeSnapshot(); err != nil {
		return err
	}
	if h.CRI, err = h.Daemon.CRI(); err != nil {
		return err
	}
	if err := h.CRI.ImportImages(ctx, images...); err != nil {
		return err
	}
	h.Events, err = h.CRI.Client().Events(context.WithoutCancel(ctx)) // until the daemon ends
	return err
}

// close ends the daemon, and reports what its pods have left behind.
func (h *podHost) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	leaks, err := h.Watch.Leaks(ctx, h.before)
	errs := []error{err}
	for _, leak := range leaks {
		errs = append(errs, fmt.Errorf("left behind: %s", leak))
	}
	log := h.Daemon.Log()
	for _, bug := range bugsIn(log) {
		errs = append(errs, fmt.Errorf("the shim's log has %q", bug))
	}
	h.Events.Close()
	errs = append(errs, h.Daemon.Close())
	harness.RemoveCgroupParent(h.CgroupParent())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w\ncontainerd's log ends with:\n%s", err, LastLines(log, 40))
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
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	if err := h.CRI.ImportBinary(ctx, ImageServer, filepath.Join(BinDir(t), "testserver")); err != nil {
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
