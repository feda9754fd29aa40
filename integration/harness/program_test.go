package harness_test

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// TestProgramObeysHangup also where the tests are run with nohup.
func TestProgramObeysHangup(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	p := harness.Program{Name: "sleep", Args: []string{"sleep", "1000"}, LogFile: filepath.Join(t.TempDir(), "log")}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Stop(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\nSigIgn:\t") // proc(5): a mask, bit 0 is signal 1
	mask, _, _ := strings.Cut(after, "\n")
	if ignored, err := strconv.ParseUint(mask, 16, 64); err != nil || ignored&(1<<(syscall.SIGHUP-1)) != 0 {
		t.Errorf("the program ignores the signals %q (%v), SIGHUP among them", mask, err)
	}
}
