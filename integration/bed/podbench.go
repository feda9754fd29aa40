package bed

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// PodBench is one test through CRI.
type PodBench struct {
	*testing.T
	*PodHost
	pods int
}

// OnCRI lets the test run at the same time as others, under a containerd that they share.
func OnCRI(t *testing.T) *PodBench {
	t.Helper()
	t.Parallel()
	sharedPodHost.Lock()
	defer sharedPodHost.Unlock()
	if sharedPodHost.PodHost == nil {
		sharedPodHost.PodHost = newSharedPodHost(t)
	}
	return newPodBench(t, sharedPodHost.PodHost)
}

// OnOwnCRI is OnCRI with a containerd that the test may restart.
func OnOwnCRI(t *testing.T) *PodBench {
	t.Helper()
	t.Parallel()
	return OnPodHost(t, newPodHost(t, harness.Watch{}, harness.ImageBusybox))
}

// OnPodHost runs the test under this host, which ends with the test.
func OnPodHost(t *testing.T, h *PodHost) *PodBench {
	t.Helper()
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
	return newPodBench(t, h)
}

func newPodBench(t *testing.T, h *PodHost) *PodBench {
	t.TempDir() // asked for before the first pod, the directory is removed after the last one
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log ends with:\n%s", LastLines(h.Daemon.Log(), 300)) // of other tests too
		}
	})
	return &PodBench{T: t, PodHost: h}
}

// Pod runs a pod with these annotations, without containers. It has the host's network, for speed, unless an edit changes that. The
// end of the test removes it.
func (b *PodBench) Pod(annotations Annotations, edit ...func(*harness.PodConfig)) *harness.Pod {
	b.Helper()
	b.pods++
	config := harness.PodConfig{
		Name: fmt.Sprintf("%s-%d", b.Name(), b.pods), Handler: HandlerLifecycle, Annotations: annotations,
		CgroupParent: b.CgroupParent(), HostNetwork: true,
	}
	for _, e := range edit {
		e(&config)
	}
	pod, err := b.CRI.RunPod(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		if err := pod.Remove(ctx); err != nil {
			b.Error(err)
		}
	})
	return pod
}

// Create makes a container in the pod. It runs args unless an edit changes that.
func (b *PodBench) Create(pod *harness.Pod, args []string, edit ...func(*harness.PodContainerConfig)) *PodContainer {
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
	return &PodContainer{PodContainer: c, files: files{b.T, config.Dir}, B: b}
}

// App makes a pod with this lifecycle block, and its one container.
func (b *PodBench) App(block string, args []string, edit ...func(*harness.PodContainerConfig)) *PodContainer {
	b.Helper()
	return b.Create(b.Pod(Annotations{KeyLifecycle: block}), args, edit...)
}

// RunApp is App, started and ready.
func (b *PodBench) RunApp(block string, args []string, edit ...func(*harness.PodContainerConfig)) *PodContainer {
	b.Helper()
	c := b.App(block, args, edit...)
	c.MustStart()
	c.WaitFor("ready")
	return c
}
