package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"

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
	harness.Parallel(8) // each has a pod, and all pods one kubelet
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
	pods     harness.Watch
	machine  harness.Watch
	noPods   harness.Snapshot
	nothing  harness.Snapshot
	missing  []string // of folders
	policies bool     // of deploy/ are in force
}

// folders that a kubelet creates beside its own root.
var folders = []string{"/var/lib/kubelet", "/var/log/containers", "/var/log/pods", "/usr/libexec/kubernetes"}

func missing(paths ...string) (missing []string) {
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, path)
		}
	}
	return missing
}

func binDir() string {
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		panic(err) // no working directory
	}
	return dir
}

// newHost starts a cluster that can pull nginx.
func newHost(ctx context.Context) (_ *host, err error) {
	cluster.Sweep() // before the first look
	h := &host{machine: harness.Watch{NetNS: true, Sysctls: true}, missing: missing(folders...)}
	if h.nothing, err = h.machine.TakeSnapshot(); err != nil {
		return nil, err
	}
	nginx, err := image.Build(ctx, "../../.cache", nil)
	if err != nil {
		return nil, err
	}
	h.Cluster, err = cluster.Start(ctx, cluster.Config{BinDir: binDir(), FeatureGates: "ContainerStopSignals=true", Image: nginx.Archive})
	if err != nil {
		return nil, err
	}
	if err := h.watch(); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// watch from before the first pod on.
func (h *host) watch() (err error) {
	// On cgroup v1 the first pod's containers would make them, for good, where the kubelet has no use for them.
	for _, class := range []string{"besteffort", "burstable"} {
		if err := harness.MakeCgroupParent(h.CgroupRoot() + "/kubepods/" + class); err != nil {
			return err
		}
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
	errs = append(errs, h.Cluster.Close())

	h.machine.CgroupParents, h.machine.Dirs = []string{h.CgroupRoot()}, []string{h.Dir, h.Containerd.Dir}
	errs = append(errs, left(ctx, h.machine, h.nothing))
	for _, path := range append(h.missing, bridge, h.Dir, h.Containerd.Dir) {
		if len(missing(path)) == 0 {
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

// alone lets it run before those. The policies are in force.
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
	if !shared.policies {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		applyPolicies(ctx, t, shared.API)
		shared.policies = true
	}
	return &bench{T: t, host: shared.host}
}

// removePolicies until the next test begins.
func (b *bench) removePolicies() {
	b.Helper()
	shared.Lock()
	defer shared.Unlock()
	b.kubectl("delete", "-f", filepath.Join(deployDir, "policy.yaml"))
	shared.policies = false
	b.poll("the end of the policies", func() bool { return !b.moves() })
}

// moves says whether native handlers are moved when a pod is made.
func (b *bench) moves() bool {
	pods, err := admit(b.Context(), b.T, b.API, onePod(&core.Lifecycle{PreStop: sleep(1)}))
	return err == nil && pods[0].Spec.Containers[0].Lifecycle == nil
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
