package fleet

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// victim makes this test binary start a fleet and die without cleaning up.
const victim = "FLEET_TEST_VICTIM"

// What a killed test has left of a fleet, processes of its nodes too, is removed before the next one.
func TestSweepRemovesFleetsOfDeadTests(t *testing.T) {
	if os.Getenv(victim) != "" {
		f, err := Start(t.Context(), Config{BinDir: binDir(), Nodes: ThreeNodes[:2]})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Print(f.dir)
		for _, node := range f.Nodes {
			pid, err := node.PID()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Print(" ", pid)
		}
		fmt.Println()
		os.Exit(3) // runs no Cleanup
	}
	cluster.Sweep()
	before, err := watch("").TakeSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	var dir string
	pids := make([]int, 2)
	if _, err := fmt.Sscan(runVictim(t), &dir, &pids[0], &pids[1]); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if _, err := harness.ProcessByID(pid); err != nil {
			t.Fatalf("the victim left too little: %v", err)
		}
	}
	cluster.Sweep()
	if err := left(before, dir); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if p, err := harness.ProcessByID(pid); err == nil && !p.Ended() {
			t.Errorf("left behind: %v", p)
		}
	}
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
