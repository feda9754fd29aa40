package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// What `make install` installs is all that a containerd needs.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	install := exec.CommandContext(t.Context(), "make", "-C", "../..", "install", "DESTDIR="+dir, "PREFIX=/opt/shim")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bin := filepath.Join(dir, "opt/shim/bin")
	d, err := harness.StartDaemon(t.Context(), harness.DaemonConfig{
		Server: harness.Servers(bed.BinDir(t))[0], BinDir: bin, Debug: true, ShimPath: []string{bin},
		Env: []string{"PATH=" + bin + ":/usr/sbin:/usr/bin:/sbin:/bin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	b := bed.NewBench(t, bed.Pinned, d)
	c := b.Start(bed.Annotations{bed.KeyPostStart: bed.Shell("echo warm > /warm")}, bed.Forever)
	if got := c.Read("warm"); got != "warm\n" {
		b.Errorf("postStart has written %q", got)
	}
	version, err := exec.CommandContext(t.Context(), filepath.Join(bin, "lifecyclectl"), "--version").Output()
	if err != nil || strings.Contains(string(version), "dev") {
		t.Errorf("version %q, %v", version, err)
	}
	shim, err := exec.CommandContext(t.Context(), filepath.Join(bin, "containerd-shim-lifecycle-v2"), "-v").Output()
	if number := strings.TrimSpace(strings.TrimPrefix(string(version), "lifecyclectl version ")); err != nil || string(shim) != "containerd-shim-lifecycle-v2 "+number+"\n" {
		t.Errorf("the shim's version %q, %v", shim, err)
	}
	for _, name := range []string{"bash-completion/completions/lifecyclectl", "zsh/site-functions/_lifecyclectl", "fish/vendor_completions.d/lifecyclectl.fish", "man/man1/lifecyclectl-status.1", "lifecycle-shim/config.toml"} {
		if text, err := os.ReadFile(filepath.Join(dir, "opt/shim/share", name)); err != nil || !strings.Contains(string(text), "lifecycle") {
			t.Errorf("%s: %v", name, err)
		}
	}
	uninstall := exec.CommandContext(t.Context(), "make", "-C", "../..", "uninstall", "DESTDIR="+dir, "PREFIX=/opt/shim")
	if out, err := uninstall.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.WaitFor("ready")
	c.Signal(syscall.SIGKILL)
	c.WantExit(137)
	if left, err := exec.CommandContext(t.Context(), "find", dir, "!", "-type", "d").Output(); err != nil || len(left) > 0 {
		t.Errorf("uninstall leaves %s (%v)", left, err)
	}
}
