package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// victim makes this test binary start a cluster and die without cleaning up.
const victim = "CLUSTER_TEST_VICTIM"

func binDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../../bin")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// What a killed test has left of a cluster, and of what its kubelet has changed, is taken back before the next one.
func TestSweepRemovesClustersOfDeadTests(t *testing.T) {
	if os.Getenv(victim) != "" {
		c, err := Start(t.Context(), Config{BinDir: binDir(t)})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(c.Dir, c.Containerd.Dir, c.etcd.Pid(), c.server.Pid(), c.Kubelet.Pid(), c.Containerd.Pid())
		os.Exit(3) // runs no Cleanup
	}
	Sweep()
	if err := removeDeadSocket(); err != nil {
		t.Fatal(err)
	}
	watch := harness.Watch{Sysctls: true}
	before, err := watch.TakeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	folders := missing(logLinks, filepath.Dir(devicePlugins))

	var dir, containerd string
	pids := make([]int, 4)
	if _, err := fmt.Sscan(runVictim(t), &dir, &containerd, &pids[0], &pids[1], &pids[2], &pids[3]); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if _, err := harness.ProcessByID(pid); err != nil {
			t.Fatalf("the victim left too little: %v", err)
		}
	}
	if changed, err := watch.Leaks(t.Context(), before); len(changed) == 0 {
		t.Errorf("the victim's kubelet has changed no sysctl (%v): this test shows nothing of them", err)
	}

	Sweep()
	watch.CgroupParents, watch.Dirs = []string{cgroupRoot(dir)}, []string{dir, containerd}
	leaks, err := watch.Leaks(t.Context(), before)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if p, err := harness.ProcessByID(pid); err == nil && !p.Ended() {
			leaks = append(leaks, p.String())
		}
	}
	for _, path := range append(folders, dir, containerd) {
		if len(missing(path)) == 0 {
			leaks = append(leaks, path)
		}
	}
	for _, leak := range leaks {
		t.Errorf("left behind: %s", leak)
	}
}

func missing(paths ...string) (missing []string) {
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, path)
		}
	}
	return missing
}

// runVictim runs this very test in another process, and returns what it prints.
func runVictim(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), victim+"=1")
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 3 {
		t.Fatalf("the victim: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}
