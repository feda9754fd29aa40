package harness_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// podCgroup is this test run's own.
var podCgroup = fmt.Sprintf("/lcs-harness-%d", os.Getpid())

func podDaemon(t *testing.T) (*harness.Daemon, *harness.CRI) {
	t.Helper()
	needRoot(t)
	d := start(t, harness.DaemonConfig{
		Server: harness.Servers(binDir(t))[0], CRI: true,
		Handlers: map[string]harness.RuntimeHandler{"stock": {Type: harness.StockRuntime}},
	})
	t.Cleanup(func() { harness.RemoveCgroupParent(podCgroup) })
	c, err := d.CRI()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ImportImages(t.Context(), harness.ImageBusybox); err != nil {
		t.Fatal(err)
	}
	return d, c
}

// TestPodTraces also shows that a leak check would see everything that a pod may leave.
func TestPodTraces(t *testing.T) {
	d, c := podDaemon(t)
	watch := harness.Watch{Daemons: []*harness.Daemon{d}, CgroupParents: []string{podCgroup}, NetNS: true, Sysctls: true}
	before, err := watch.TakeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	pod, err := c.RunPod(t.Context(), harness.PodConfig{Name: "p", Handler: "stock", CgroupParent: podCgroup})
	if err != nil {
		t.Fatal(err)
	}
	container, err := pod.Create(t.Context(), harness.PodContainerConfig{Name: "a", Args: []string{"sleep", "60"}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := container.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, err := watch.TakeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	traces := strings.Join(slices.Collect(maps.Keys(now)), "\n")
	for _, want := range []string{"shim: ", "process in a test's cgroup: ", "mount: " + d.Dir + "/state/", "/netns/", "cgroup: ", "interface: ", "address: ", "result of CNI: ", "sysctl: "} {
		if !strings.Contains(traces, want) {
			t.Errorf("nothing is noted as %q", want)
		}
	}
	if err := pod.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	leaks, err := watch.Leaks(t.Context(), before)
	if err != nil || len(leaks) > 0 {
		t.Errorf("leaks %q (%v) after the pod was removed", leaks, err)
	}
}

// TestCloseRemovesPods: a test that has failed removes none of its pods.
func TestCloseRemovesPods(t *testing.T) {
	d, c := podDaemon(t)
	if _, err := c.RunPod(t.Context(), harness.PodConfig{Name: "p", Handler: "stock", CgroupParent: podCgroup}); err != nil {
		t.Fatal(err)
	}
	traces := func() []string {
		ports, _ := filepath.Glob("/sys/class/net/" + d.PodBridge())
		results, _ := filepath.Glob("/var/lib/cni/results/" + d.PodBridge() + "-*")
		return append(ports, results...)
	}
	if got := traces(); len(got) != 2 {
		t.Errorf("traces %q of the pod: want the bridge and what CNI noted", got)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if got := traces(); len(got) != 0 {
		t.Errorf("left behind: %q", got)
	}
}
