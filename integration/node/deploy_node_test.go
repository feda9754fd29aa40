package node

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// installer runs deploy/node/install for one node.
type installer struct {
	*testing.T
	prefix, config string
	server         harness.Server
	// pid of the containerd that runs; 0: it is named by its program and its configuration.
	pid int
}

func (i installer) run(args ...string) (string, error) {
	i.Helper()
	which := []string{"--config", i.config, "--containerd", i.server.Binary}
	if i.pid != 0 {
		which = []string{"--pid", strconv.Itoa(i.pid)}
	}
	args = slices.Concat([]string{deployFile(i.T, "node/install"), "--prefix", i.prefix}, which, args)
	out, err := exec.CommandContext(i.Context(), "bash", args...).CombinedOutput()
	return string(out), err
}

func (i installer) mustRun(args ...string) string {
	i.Helper()
	out, err := i.run(args...)
	if err != nil {
		i.Fatalf("node/install %q: %v\n%s", args, err, out)
	}
	return out
}

func (i installer) read() string {
	i.Helper()
	text, err := os.ReadFile(i.config)
	if err != nil {
		i.Fatal(err)
	}
	return string(text)
}

// tree lists what is below the directory.
func (i installer) tree(dir string) string {
	i.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // containerd has removed it meanwhile
		}
		found = append(found, path)
		return err
	})
	if err != nil {
		i.Fatal(err)
	}
	return strings.Join(found, "\n")
}

// A node that runs is given handlers, runs them after containerd's restart, and is as before when that is undone. FAULTS C2: the
// configuration is the one that the running containerd reads, wherever that is.
func TestNodeInstall(t *testing.T) {
	for _, c := range []struct {
		server string
		args   []string
	}{
		{"2.4", nil},
		{"1.7", nil},
		{"1.6", nil},
		{"2.4", []string{"--runtime-path", "--cgroup-driver", "cgroupfs"}},
		{"1.7", []string{"--runtime-path", "--cgroup-driver", "cgroupfs"}},
	} {
		t.Run(strings.Join(append([]string{c.server}, c.args...), " "), func(t *testing.T) {
			t.Parallel()
			prefix := t.TempDir()
			h := bed.StartPodHost(t, harness.DaemonConfig{
				Server: server(t, c.server), BinDir: bed.BinDir(t), CRI: true, Debug: true, ShimPath: []string{filepath.Join(prefix, "bin")},
			}, harness.Watch{}, harness.ImageBusybox)
			b := bed.OnPodHost(t, h)
			b.Cleanup(func() { _ = os.Remove("/run/containerd/runc/k8s.io") }) // runc leaves it, empty
			i := installer{t, prefix, filepath.Join(h.Daemon.Dir, "config.toml"), h.Daemon.Server(), h.Daemon.Pid()}
			before, dir := i.read(), i.tree(filepath.Dir(i.config))
			wantFindings(t, h.Daemon, []string{"fault handler"})

			out := i.mustRun(c.args...)
			for _, words := range []string{i.config, "next: systemctl restart containerd", "lifecyclectl doctor", "kubernetes/runtimeclass.yaml"} {
				if !strings.Contains(out, words) {
					t.Errorf("it does not say %q:\n%s", words, out)
				}
			}
			wantFindings(t, h.Daemon, []string{"fault handler"}, "restart containerd")
			once := i.read()
			i.mustRun(c.args...)
			if i.read() != once {
				t.Errorf("installing twice is not as once:\n%s", i.read())
			}
			restart(t, h.Daemon, h.Daemon.Start)
			i.pid = h.Daemon.Pid()
			found := wantFindings(t, h.Daemon, healthy(i.server, slices.Contains(c.args, "cgroupfs")))
			if got := found.Containerds[0].Shim.Path; got != filepath.Join(prefix, "bin/containerd-shim-lifecycle-v2") {
				t.Errorf("the shim is %s", got)
			}
			pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell("echo warm > warm") + "}}"})
			app := b.Create(pod, bed.Obedient)
			app.MustStart()
			if got := app.Read("warm"); got != "warm\n" {
				t.Errorf("postStart has written %q", got)
			}

			if out, err := i.run("--undo"); err == nil || !strings.Contains(out, "while pods use it") {
				t.Errorf("it is undone while a pod runs (%v): %s", err, out)
			}
			if err := pod.Remove(b.Context()); err != nil {
				t.Fatal(err)
			}
			bed.Poll(t, "the shim to end, and all to be undone", func() bool { _, err := i.run("--undo"); return err == nil })
			if after := i.read(); after != before {
				t.Errorf("the configuration is not as before:\n%s", after)
			}
			after := i.tree(filepath.Dir(i.config))
			for line := range strings.Lines(after) {
				if strings.Contains(line, "conf.d") || strings.Contains(line, "lifecycle") || strings.Contains(line, ".new") {
					t.Errorf("left behind: %s (before: %s)", line, dir)
				}
			}
			if left := i.tree(prefix); strings.Contains(left, "lifecycle") {
				t.Errorf("left behind: %s", left)
			}
			if out := i.mustRun("--undo"); !strings.Contains(out, "note: neither "+i.config+" nor ") { // no error
				t.Errorf("undone twice: %s", out)
			}
		})
	}
}

// Where `make install` or a package has put the programs and the examples, the script takes them as they are, and leaves them.
func TestNodeInstallOfInstalled(t *testing.T) {
	prefix, dir := t.TempDir(), t.TempDir()
	share := filepath.Join(prefix, "share/lifecycle-shim")
	if err := os.CopyFS(share, os.DirFS("../../deploy")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(prefix, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"containerd-shim-lifecycle-v2", "lifecycle-hookexec", "lifecyclectl"} {
		link(t, filepath.Join(bed.BinDir(t), name), filepath.Join(prefix, "bin"))
	}
	i := installer{t, prefix, filepath.Join(dir, "config.toml"), server(t, "2.4"), 0}
	before, bin := i.tree(prefix), i.tree(filepath.Join(prefix, "bin"))
	for _, args := range [][]string{{"--runtime-path", "--cgroup-driver", "systemd"}, {"--undo"}} {
		args = append([]string{filepath.Join(share, "node/install"), "--prefix", prefix, "--config", i.config, "--containerd", i.server.Binary}, args...)
		if out, err := exec.CommandContext(t.Context(), "bash", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if args[len(args)-1] == "--undo" {
			if after := i.tree(prefix); after != before {
				t.Errorf("it is not as before:\n%s", after)
			}
			break
		}
		if after := i.tree(filepath.Join(prefix, "bin")); after != bin {
			t.Errorf("the programs are not as before:\n%s", after)
		}
		dropin, err := os.ReadFile(filepath.Join(dir, "conf.d/lifecycle.toml"))
		if want := "runtime_path = '" + prefix + "/bin/containerd-shim-lifecycle-v2'"; err != nil || !strings.Contains(string(dropin), want) || !strings.Contains(string(dropin), "SystemdCgroup = true") {
			t.Errorf("%v: %s", err, dropin)
		}
	}
}

// What cannot be done changes nothing, and is reported.
func TestNodeInstallRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		server, config string
		args           []string
		words          string
	}{
		"another handler":             {"2.4", "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.lifecycle]\nruntime_type = 'x'\n", nil, "already"},
		"other imports":               {"2.4", "version = 3\nimports = ['/nowhere/*.toml']\n", nil, "conf.d/*.toml' to its imports"},
		"no TOML":                     {"2.4", "version = \n", nil, "cannot read"},
		"version 3 in 1.7":            {"1.7", "version = 3\n", nil, "version 2"},
		"no TOML in 1.7":              {"1.7", "version = 2\n[[[\n", nil, "cannot read"},
		"CRI is disabled":             {"2.4", "version = 3\ndisabled_plugins = ['io.containerd.cri.v1.runtime']\n", nil, "disables CRI"},
		"docker's own file":           {"2.4", "disabled_plugins = [\"cri\"]\n", nil, "disables CRI"},
		"CRI is disabled in 1.7":      {"1.7", "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n", nil, "disables CRI"},
		"a pid that is none":          {"2.4", "version = 3\n", []string{"--pid", "1"}, "process 1 is not a containerd"},
		"runtime path in Debian's":    {"1.6", "version = 2\n", []string{"--runtime-path"}, "1.6.21"},
		"a driver that is none":       {"2.4", "version = 3\n", []string{"--cgroup-driver", "x"}, "cgroupfs or systemd"},
		"an option that is none":      {"2.4", "version = 3\n", []string{"--help-me"}, "--help-me"},
		"programs that are not there": {"2.4", "version = 3\n", []string{"--bin", "/nowhere"}, "/nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, prefix := t.TempDir(), t.TempDir()
			i := installer{t, prefix, filepath.Join(dir, "config.toml"), server(t, c.server), 0}
			if err := os.WriteFile(i.config, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			before := i.tree(dir) + i.tree(prefix)
			out, err := i.run(c.args...)
			if err == nil || !strings.Contains(out, c.words) {
				t.Errorf("%v: it does not say %q: %s", err, c.words, out)
			}
			if after := i.tree(dir) + i.tree(prefix); after != before || i.read() != c.config {
				t.Errorf("it is not as before:\n%s\n%s", after, i.read())
			}
		})
	}
}

// Nodes whose containerd has no configuration file, or one of an older version, get one that it understands.
func TestNodeInstallConfigs(t *testing.T) {
	for name, c := range map[string]struct{ server, config string }{
		"2.4, none": {"2.4", ""}, "1.7, none": {"1.7", ""}, "1.6, none": {"1.6", ""},
		"2.4, of version 2":           {"2.4", "version = 2\n" + nodeConfig},
		"2.4, of version 4":           {"2.4", "version = 4\n"},
		"2.4, with our imports":       {"2.4", "version = 3\nimports = ['CONF.D/*.toml']\n"},
		"2.4, as containerd makes it": {"2.4", "DEFAULT"}, "1.7, as containerd makes it": {"1.7", "DEFAULT"}, "1.6, as containerd makes it": {"1.6", "DEFAULT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			i := installer{t, t.TempDir(), filepath.Join(dir, "config.toml"), server(t, c.server), 0}
			config := strings.ReplaceAll(c.config, "CONF.D", filepath.Join(dir, "conf.d"))
			if config == "DEFAULT" {
				out, err := exec.CommandContext(t.Context(), i.server.Binary, "config", "default").Output()
				if err != nil {
					t.Fatal(err)
				}
				config = strings.ReplaceAll(string(out), "/etc/containerd", dir)
			}
			if config != "" {
				if err := os.WriteFile(i.config, []byte(config), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			i.mustRun()
			text, err := exec.CommandContext(t.Context(), i.server.Binary, "--config", i.config, "config", "dump").Output()
			if err != nil {
				t.Fatal(err)
			}
			for _, runtime := range []string{"lifecycle", "runc"} {
				if !strings.Contains(string(text), "containerd.runtimes."+runtime+"]") {
					t.Errorf("containerd has no runtime %s: %s", runtime, text)
				}
			}
			i.mustRun("--undo")
			if config == "" {
				if left := i.tree(dir); left != dir {
					t.Errorf("left behind: %s", left)
				}
				return
			}
			if info, err := os.Stat(i.config); err != nil || info.Mode().Perm() != 0o640 || i.read() != config {
				t.Errorf("the configuration is not as before: %v %s", info, i.read())
			}
		})
	}
}
