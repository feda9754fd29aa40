package node

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// containerd in a unit of systemd is found by its cgroup, and restarted by systemctl. Where systemd is not the init, TestUnderSystemd
// runs this test.
func TestNodeInstallRestartsTheUnit(t *testing.T) {
	if !systemdRuns() {
		return
	}
	dir, err := os.MkdirTemp("/run", "lcs-unit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	unit := fmt.Sprintf("lcs-node-%d.service", os.Getpid())
	path := func(name string) string { return filepath.Join(dir, name) }
	config := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\n[grpc]\naddress = %q\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nconf_dir = %q\n"+
		"[plugins.'io.containerd.internal.v1.opt']\npath = %q\n[plugins.'io.containerd.shim.v1.manager']\nsocket_dir = %q\n[plugins.'io.containerd.nri.v1.nri']\ndisable = true\n",
		path("root"), path("state"), path("sock"), path("cni"), path("opt"), path("s"))
	if err := os.WriteFile(path("config.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	bin := bed.BinDir(t)
	run := func(name string, args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), name, args...).Output()
		return string(out), err
	}
	if _, err := run("systemd-run", "--unit="+unit, "--property=DefaultDependencies=no", "--property=KillMode=process", "--property=Restart=always",
		"--setenv=PATH="+bin+":/usr/sbin:/usr/bin:/sbin:/bin", filepath.Join(bin, "containerd"), "--config", path("config.toml")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("systemctl", "stop", unit).Run() })
	bed.Poll(t, "containerd to answer", func() bool {
		_, err := run(filepath.Join(bin, "ctr"), "--address", path("sock"), "version")
		return err == nil
	})
	node := func(args ...string) (r nodeResult) {
		out, err := run(filepath.Join(bin, "lifecyclectl"), append([]string{"node"}, args...)...)
		if decodeErr := json.Unmarshal([]byte(out), &r); err != nil || decodeErr != nil {
			t.Fatalf("%q: %v, %v\n%s", args, err, decodeErr, out)
		}
		return r
	}
	prefix := path("prefix")
	which := []string{"--prefix", prefix, "--config", path("config.toml"), "-o", "json"}
	installed := node(append([]string{"install", "--restart"}, which...)...)
	if installed.Containerd.Unit != unit || installed.Restart != "done" {
		t.Errorf("the installation reports %+v", installed)
	}
	if out, err := run(filepath.Join(bin, "lifecyclectl"), append([]string{"node", "status"}, which...)...); err != nil {
		t.Errorf("the status is %s", out)
	}
	if removed := node(append([]string{"uninstall", "--restart"}, which...)...); removed.Restart != "done" {
		t.Errorf("the removal reports %+v", removed)
	}
	if after, err := os.ReadFile(path("config.toml")); err != nil || string(after) != config {
		t.Errorf("the configuration is %s, %v", after, err)
	}
}
