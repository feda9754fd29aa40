package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// systemdRuns says whether systemd is the init of what this process sees.
func systemdRuns() bool {
	_, err := os.Stat("/run/systemd/system") // sd_booted(3)
	return err == nil
}

// Where systemd is not the machine's init, the tests that depend on it run once more under a systemd in its own namespaces:
// this very program is its only service.
func TestUnderSystemd(t *testing.T) {
	if systemdRuns() {
		return // they have run under it already
	}
	if harness.CgroupV2() {
		t.Fatal("testdata/systemd/boot knows cgroup v1 only, and a machine with cgroup v2 alone is expected to run systemd")
	}
	dir := t.TempDir()
	cgroup := fmt.Sprintf("/lcs-systemd-%d", os.Getpid())
	if err := harness.MakeCgroupParent(cgroup); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { harness.RemoveCgroupTree(cgroup) })
	output := filepath.Join(dir, "output")
	units := placeUnits(t, dir, output)
	boot, err := filepath.Abs("testdata/systemd/boot")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "bash", boot, dir, cgroup, units)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) } // the first of a pid namespace takes all with it
	log, err := command.CombinedOutput()
	text, _ := os.ReadFile(output)
	for _, name := range []string{"TestNodeInstallRestartsTheUnit"} {
		if !strings.Contains(string(text), "--- PASS: "+name+" (") {
			t.Errorf("under systemd %s does not pass", name)
		}
	}
	if err != nil || t.Failed() {
		t.Errorf("%v\n%s\n%s", err, log, bed.LastLines(string(text), 1000))
	}
}

// placeUnits writes the units with what is to be run.
func placeUnits(t *testing.T, dir, output string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	units := filepath.Join(dir, "units")
	if err := os.Mkdir(units, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lcs.target", "lcs.service"} {
		text, err := os.ReadFile(filepath.Join("testdata/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		placed := strings.NewReplacer("TESTBINARY", self, "TESTS", "^(TestNodeInstallRestartsTheUnit)$$ -test.v", "DIRECTORY", here,
			"OUTPUT", output, "SEARCHPATH", "PATH="+os.Getenv("PATH")).Replace(string(text))
		if err := os.WriteFile(filepath.Join(units, name), []byte(placed), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return units
}
