package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// What `make install` installs is all that a containerd needs.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	install := exec.CommandContext(t.Context(), "make", "-C", "..", "install", "DESTDIR="+dir, "PREFIX=/opt/shim")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bin := filepath.Join(dir, "opt/shim/bin")
	d, err := harness.StartDaemon(t.Context(), harness.DaemonConfig{
		Server: harness.Servers(binDir(t))[0], BinDir: bin, Debug: true, ShimPath: []string{bin},
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
	b := newBench(t, pinned, d)
	c := b.run(with{keyPostStart: shell("echo warm > /warm")}, forever)
	if got := c.read("warm"); got != "warm\n" {
		b.Errorf("postStart has written %q", got)
	}
	version, err := exec.CommandContext(t.Context(), filepath.Join(bin, "lifecyclectl"), "--version").Output()
	if err != nil || strings.Contains(string(version), "dev") {
		t.Errorf("version %q, %v", version, err)
	}
	for _, name := range []string{"bash-completion/completions/lifecyclectl", "zsh/site-functions/_lifecyclectl", "fish/vendor_completions.d/lifecyclectl.fish"} {
		if text, err := os.ReadFile(filepath.Join(dir, "opt/shim/share", name)); err != nil || !strings.Contains(string(text), "lifecyclectl") {
			t.Errorf("completions %s: %v", name, err)
		}
	}
}
