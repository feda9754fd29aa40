package harness_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// victim makes this test binary start a daemon with a container and die without cleaning up.
// victim, in the environment, is the cgroupParent of who has started the test to kill it.
const victim = "HARNESS_TEST_VICTIM"

func TestNextDaemonRemovesThoseOfDeadTests(t *testing.T) {
	forEachServer(t, func(t *testing.T, s harness.Server) {
		if os.Getenv(victim) != "" {
			leaveContainerBehind(t, s)
		}
		before := snapshot(t, bench{}) // of what has our cgroup parent
		dir := runVictim(t)
		if _, err := os.Stat(dir); err != nil {
			t.Fatalf("the victim left nothing: %v", err)
		}
		b := newBench(t, harness.DaemonConfig{Server: s})
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s of a dead test is still there", dir)
		}
		noLeaks(t, b, before)
	})
}

func leaveContainerBehind(t *testing.T, s harness.Server) {
	b := newBench(t, harness.DaemonConfig{Server: s})
	c := newContainer(t, b, harness.ContainerConfig{ID: "orphan", Args: []string{"sleep", "600"}})
	if _, _, err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	fmt.Println(b.daemon.Dir)
	os.Exit(3) // runs no Cleanup
}

// runVictim runs this very test in another process and returns the directory of the daemon it left.
func runVictim(t *testing.T) string {
	t.Helper()
	// "Test/2.4": -run is matched part by part.
	cmd := exec.Command(os.Args[0], "-test.run=^"+strings.ReplaceAll(regexp.QuoteMeta(t.Name()), "/", "$/^")+"$")
	cmd.Env = append(os.Environ(), victim+"="+cgroupParent)
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 3 {
		t.Fatalf("the victim: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}
