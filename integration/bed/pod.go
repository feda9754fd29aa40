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

// KeyGrace is the kubelet's annotation, which the README's configuration passes to containers.
const KeyGrace = "io.kubernetes.pod.terminationGracePeriod"

// PodHost is a containerd with CRI and NRI, and a snapshot from before its first pod.
type PodHost struct {
	Daemon *harness.Daemon
	CRI    *harness.CRI
	Events *harness.Events
	Watch  harness.Watch
	before harness.Snapshot
}

// CgroupParent is the parent of the pods' cgroups.
func (h *PodHost) CgroupParent() string { return "/" + filepath.Base(h.Daemon.Dir) }

// newPodHost starts a host with these images. Its leak check looks at watch and at the daemon.
func newPodHost(t *testing.T, watch harness.Watch, images ...string) *PodHost {
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

// StartPodHost starts a host with this configuration.
func StartPodHost(t *testing.T, config harness.DaemonConfig, watch harness.Watch, images ...string) *PodHost {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*Limit)
	defer cancel()
	d, err := harness.StartDaemon(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	h := &PodHost{Daemon: d, Watch: watch}
	if err := h.prepare(ctx, images); err != nil {
		t.Fatal(errors.Join(err, d.Close()))
	}
	return h
}

func (h *PodHost) prepare(ctx context.Context, images []string) (err error) {
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

// close ends the daemon, and returns what its pods have left behind.
func (h *PodHost) close() error {
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

// sharedPodHost is for all tests that do not restart containerd: parallel tests can only look for leaks when all of them are over.
var sharedPodHost = struct {
	sync.Mutex
	*PodHost
}{}

func newSharedPodHost(t *testing.T) *PodHost {
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
	if sharedPodHost.PodHost == nil {
		return nil
	}
	return sharedPodHost.close()
}
