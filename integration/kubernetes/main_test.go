package kubernetes

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// limit bounds every wait. It is long, because it is only reached by a failure.
const limit = 2 * time.Minute

// shared is the cluster that the tests run on.
var shared = struct {
	sync.Mutex
	*host
}{}

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests mostly wait; but each has a pod, and all pods one kubelet.
	_ = flag.Set("test.parallel", "8")
	code := m.Run()
	if shared.host != nil {
		if err := shared.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// host is a cluster, and what there was before it and before its first pod.
type host struct {
	*cluster.Cluster
	registry *httptest.Server
	pods     harness.Watch
	machine  harness.Watch
	noPods   harness.Snapshot
	nothing  harness.Snapshot
}

func binDir() string {
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		panic(err) // no working directory
	}
	return dir
}

// newHost starts a cluster with a registry that has nginx.
func newHost(ctx context.Context) (_ *host, err error) {
	h := &host{machine: harness.Watch{NetNS: true, Sysctls: true}}
	if h.nothing, err = h.machine.TakeSnapshot(); err != nil {
		return nil, err
	}
	nginx, err := image.Build(ctx, "../../.cache", nil)
	if err != nil {
		return nil, err
	}
	registry, err := cluster.Registry(nginx.Archive)
	if err != nil {
		return nil, err
	}
	h.registry = httptest.NewServer(registry)
	h.Cluster, err = cluster.Start(ctx, cluster.Config{
		BinDir: binDir(), FeatureGates: "ContainerStopSignals=true", Registries: map[string]string{"docker.io": fmt.Sprintf("server = %q\n", h.registry.URL)},
	})
	if err != nil {
		h.registry.Close()
		return nil, err
	}
	if err := h.watch(); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// watch from before the first pod on.
func (h *host) watch() (err error) {
	// On cgroup v1 the first pod's containers would make it, for good, where the kubelet has no use for it.
	if err := harness.MakeCgroupParent(h.CgroupRoot() + "/kubepods/besteffort"); err != nil {
		return err
	}
	h.pods = harness.Watch{
		Daemons: []*harness.Daemon{h.Containerd}, CgroupParents: []string{h.CgroupRoot()}, NetNS: true, Sysctls: true,
		Settle: limit, // the kubelet takes its time
	}
	h.noPods, err = h.pods.TakeSnapshot()
	return err
}

// close says what pods have left behind, and then what the cluster has.
func (h *host) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	errs := []error{left(ctx, h.pods, h.noPods)}
	log := h.Containerd.Log()
	for _, bug := range []string{"DATA RACE", "panic in ", "goroutine 1 ["} {
		if strings.Contains(log, bug) {
			errs = append(errs, fmt.Errorf("the log of containerd and the shim has %q", bug))
		}
	}
	bridge := filepath.Join("/sys/class/net", h.Containerd.PodBridge())
	h.registry.Close()
	errs = append(errs, h.Cluster.Close())

	h.machine.CgroupParents, h.machine.Dirs = []string{h.CgroupRoot()}, []string{h.Dir, h.Containerd.Dir}
	errs = append(errs, left(ctx, h.machine, h.nothing))
	for _, path := range []string{bridge, h.Dir, h.Containerd.Dir} {
		if _, err := os.Stat(path); err == nil {
			errs = append(errs, fmt.Errorf("left behind: %s", path))
		}
	}
	return errors.Join(errs...)
}

func left(ctx context.Context, watch harness.Watch, before harness.Snapshot) error {
	leaks, err := watch.Leaks(ctx, before)
	errs := []error{err}
	for _, leak := range leaks {
		errs = append(errs, fmt.Errorf("left behind: %s", leak))
	}
	return errors.Join(errs...)
}

// bench is what one test works with.
type bench struct {
	*testing.T
	*host
}

// on lets the test run beside others.
func on(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	return alone(t)
}

// alone lets it run when no other does: it restarts what they need.
func alone(t *testing.T) *bench {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.host == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
		defer cancel()
		begin := time.Now()
		h, err := newHost(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the cluster is up after %v", time.Since(begin))
		shared.host = h
	}
	return &bench{T: t, host: shared.host}
}

// events from now on: a stream does not outlive the containerd that another test has restarted.
func (b *bench) events() *harness.Events {
	b.Helper()
	client, err := b.Containerd.Client("k8s.io")
	if err != nil {
		b.Fatal(err)
	}
	events, err := client.Events(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return events
}

// kubectl must succeed.
func (b *bench) kubectl(args ...string) string {
	b.Helper()
	out, err := b.Kubectl(b.Context(), args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}
