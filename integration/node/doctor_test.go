package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// diagnosis is what `lifecyclectl doctor -o json` says.
type diagnosis struct {
	Version     string
	Containerds []struct {
		Address, Version string
		PID              int
		Shim, Hookexec   struct{ Path, Version string }
		OCIRuntime       struct{ Path, Version string }
	}
	Findings []struct{ Level, Check, Where, Message, Cure string }
}

// doctor looks at that socket, from the daemon's mount namespace.
func doctor(t *testing.T, d *harness.Daemon, address string) (found diagnosis, failed bool) {
	t.Helper()
	command := d.Command(t.Context(), filepath.Join(bed.BinDir(t), "lifecyclectl"), "--address", address, "doctor", "-o", "json")
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	err := command.Run()
	if json.Unmarshal(out.Bytes(), &found) != nil {
		t.Fatalf("lifecyclectl doctor: %v\n%s%s", err, out.String(), errOut.String())
	}
	return found, err != nil
}

// wantFindings wants these, as level and check, and these words in the messages and cures of all.
func wantFindings(t *testing.T, d *harness.Daemon, want []string, words ...string) diagnosis {
	t.Helper()
	return wantFindingsAt(t, d, d.Address, want, words...)
}

func wantFindingsAt(t *testing.T, d *harness.Daemon, address string, want []string, words ...string) diagnosis {
	t.Helper()
	found, failed := doctor(t, d, address)
	got := []string{}
	text := ""
	for _, finding := range found.Findings {
		if finding.Check != "kernel" { // of the machine, not of the test
			got = append(got, finding.Level+" "+finding.Check)
			text += finding.Message + "\n" + finding.Cure + "\n"
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q:\n%s", got, want, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("nothing says %q:\n%s", word, text)
		}
	}
	if faults := slices.ContainsFunc(want, func(f string) bool { return strings.HasPrefix(f, "fault") }); failed != faults {
		t.Errorf("the command fails: %t, want %t", failed, faults)
	}
	return found
}

// good is a runtime handler as deploy/ has it, for a text with further lines.
const good = "runtime_type = 'io.containerd.lifecycle.v2'\n"

const annotations = "pod_annotations = ['lifecycle-shim.io/*', '*.lifecycle-shim.io/*']\ncontainer_annotations = ['io.kubernetes.*']\n"

// handlerTOML is the handler's table, with these lines in it.
func handlerTOML(s harness.Server, lines string) string {
	table := func(name string) string {
		return fmt.Sprintf("[plugins.'%s'.containerd.runtimes.%s]\n", criPlugin(s), name)
	}
	text := table("lifecycle") + strings.ReplaceAll(lines, "OPTIONS", table("lifecycle.options"))
	if !s.Modern() {
		text = table("runc") + "runtime_type = 'io.containerd.runc.v2'\n" + text
	}
	return text
}

// node starts a containerd with CRI, which the test's end closes.
func node(t *testing.T, name string, edit func(*harness.DaemonConfig)) *harness.Daemon {
	t.Helper()
	config := harness.DaemonConfig{Server: server(t, name), BinDir: bed.BinDir(t), CRI: true}
	edit(&config)
	d, err := harness.StartDaemon(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// healthy are the findings on a healthy node: none, but that a handler which insists on cgroupfs is noted where systemd manages cgroup v2
// and containerd, 1.x, does not say what it reports to the kubelet.
func healthy(server harness.Server, cgroupfs bool) []string {
	if cgroupfs && !server.Modern() && systemdRuns() && harness.CgroupV2() {
		return []string{"note cgroup-driver"}
	}
	return []string{}
}

// A healthy node has no finding, with any containerd.
func TestDoctorFindsNothing(t *testing.T) {
	for _, c := range deployCases(t) {
		if c.systemd() {
			continue // it is a fault where systemd does not run: TestDoctor
		}
		t.Run(c.name(), func(t *testing.T) {
			t.Parallel()
			b := c.TopicStart(t)
			found := wantFindings(t, b.Daemon, healthy(c.server, strings.HasSuffix(c.file, "-cgroupfs.toml")))
			if len(found.Containerds) != 1 {
				t.Fatalf("found %+v", found)
			}
			one := found.Containerds[0]
			if one.PID != b.Daemon.Pid() || !strings.HasPrefix(one.Version, c.server.Name+".") || one.Shim.Version != found.Version || one.Hookexec.Version != found.Version || one.OCIRuntime.Version == "" {
				t.Errorf("found %+v", one)
			}
			if strings.Contains(c.file, "-runc-") && one.Shim.Path != "/usr/local/bin/containerd-shim-lifecycle-v2" { // in containerd's own mount namespace
				t.Errorf("the shim is %s", one.Shim.Path)
			}
		})
	}
}

// Each thing that is broken has its finding and its cure, under each containerd that it can happen to.
func TestDoctor(t *testing.T) {
	every := []string{"2.4", "1.7", "1.6"}
	for name, c := range map[string]struct {
		servers []string
		handler string // lines of its table
		edit    func(t *testing.T, config *harness.DaemonConfig)
		want    []string
		words   []string
	}{
		"stock shim":                 {every, "runtime_type = 'io.containerd.runc.v2'\n" + annotations, nil, []string{"fault runtime"}, []string{"runtime_path", bed.Runtime}},
		"runtime path before 1.6.21": {[]string{"1.6"}, "runtime_type = 'io.containerd.runc.v2'\nruntime_path = 'BIN/containerd-shim-lifecycle-v2'\n" + annotations, nil, []string{"fault runtime"}, []string{"1.6.21"}},
		"options before 1.7":         {[]string{"1.6"}, good + annotations + "OPTIONSBinaryName = 'runc'\n", nil, []string{"fault runtime"}, []string{"ConfigPath"}},
		"no annotations":             {every, good, nil, []string{"fault pod-annotations", "fault container-annotations"}, []string{"'*.lifecycle-shim.io/*'", "'io.kubernetes.*'"}},
		"general annotations only":   {[]string{"2.4"}, good + "pod_annotations = ['lifecycle-shim.io/*']\ncontainer_annotations = ['io.*']", nil, []string{"fault pod-annotations"}, nil},
		"no OCI runtime":             {[]string{"2.4", "1.7"}, good + annotations + "OPTIONSBinaryName = 'no-such-runtime'\n", nil, []string{"fault oci-runtime"}, []string{"no-such-runtime", "BinaryName"}},
		"no shim": {every, good + annotations, func(t *testing.T, config *harness.DaemonConfig) {
			bin, own := t.TempDir(), t.TempDir()
			link(t, filepath.Join(bed.BinDir(t), "runc"), bin)
			bed.InstallFrom(t, filepath.Dir(config.Server.Binary), own, filepath.Base(config.Server.Binary)) // containerd finds what is beside itself
			config.Server.Binary = filepath.Join(own, filepath.Base(config.Server.Binary))
			config.Env = []string{"PATH=" + bin}
		}, []string{"fault shim"}, []string{"containerd-shim-lifecycle-v2", "make install"}},
		"no handler host": {every, good + annotations, func(t *testing.T, config *harness.DaemonConfig) {
			bin := t.TempDir()
			link(t, filepath.Join(bed.BinDir(t), "runc"), bin)
			bed.InstallFrom(t, bed.BinDir(t), bin, "containerd-shim-lifecycle-v2")
			config.Env = []string{"PATH=" + bin}
		}, []string{"fault hookexec"}, []string{"lifecycle-hookexec", "make install"}},
		"handler host of another build": {[]string{"2.4"}, good + annotations, func(t *testing.T, config *harness.DaemonConfig) {
			bin := t.TempDir()
			bed.InstallFrom(t, bed.BinDir(t), bin, "containerd-shim-lifecycle-v2")
			build := exec.CommandContext(t.Context(), "go", "-C", "../..", "build", "-tags", "seccomp netgo osusergo grpcnotrace", "-ldflags",
				"-X github.com/lifecycle-shim/lifecycle-shim/shim/version.Version=0.0.9", "-o", bin+"/", "./cmd/lifecycle-hookexec")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			config.ShimPath = []string{bin}
		}, []string{"fault hookexec"}, []string{"version 0.0.9"}},
		"settings": {[]string{"2.4"}, good + annotations, func(t *testing.T, config *harness.DaemonConfig) {
			config.Binds = map[string]string{"/etc": etcWith(t, "OutputLimit = -1\n")}
		}, []string{"fault settings"}, []string{"OutputLimit is -1", "/etc/lifecycle-shim/config.toml"}},
		"metrics": {[]string{"2.4"}, good + annotations, func(t *testing.T, config *harness.DaemonConfig) {
			config.Binds = map[string]string{"/etc": etcWith(t, "MetricsFile = '/nowhere/lifecycle.prom'\n")}
		}, []string{"fault metrics"}, []string{"make /nowhere"}},
		"good settings": {[]string{"2.4"}, good + annotations, func(t *testing.T, config *harness.DaemonConfig) {
			config.Binds = map[string]string{"/etc": etcWith(t, "MetricsFile = '/tmp/lifecycle.prom'\n")}
		}, []string{}, nil},
	} {
		for _, old := range c.servers {
			t.Run(old+" "+name, func(t *testing.T) {
				t.Parallel()
				d := node(t, old, func(config *harness.DaemonConfig) {
					config.ExtraConfig = handlerTOML(config.Server, strings.ReplaceAll(c.handler, "BIN", bed.BinDir(t)))
					if c.edit != nil {
						c.edit(t, config)
					}
				})
				wantFindings(t, d, c.want, c.words...)
			})
		}
	}
}

// A handler that asks for systemd's cgroups is right where systemd runs, and only there; and where CRI, which 2.x asks its default
// runtime for, reports the same to the kubelet.
func TestDoctorSystemdCgroups(t *testing.T) {
	for _, c := range deployCases(t) {
		if !c.systemd() {
			continue
		}
		t.Run(c.name(), func(t *testing.T) {
			d := c.TopicStart(t).Daemon
			switch {
			case !systemdRuns():
				wantFindings(t, d, []string{"fault cgroup-driver"}, "not this machine's init", "SystemdCgroup = false")
			case c.server.Modern():
				wantFindings(t, d, []string{"fault cgroup-driver"}, "the kubelet cgroupfs (reported by CRI)")
			default:
				wantFindings(t, d, []string{})
			}
		})
	}
}

// The three ways in which there is no handler: none is configured, containerd has not been restarted, CRI did not start.
func TestDoctorFindsNoHandler(t *testing.T) {
	for _, name := range []string{"2.4", "1.7", "1.6"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := node(t, name, func(*harness.DaemonConfig) {})
			example := "containerd/1.x/lifecycle.toml"
			if d.Server().Modern() {
				example = "containerd/2.x/lifecycle.toml"
			}
			wantFindings(t, d, []string{"fault handler"}, `no runtime handler "lifecycle"`, example)

			config := filepath.Join(d.Dir, "config.toml")
			text, err := os.ReadFile(config)
			if err != nil {
				t.Fatal(err)
			}
			handler := handlerTOML(d.Server(), good+annotations)
			if err := os.WriteFile(config, append(text, handler...), 0o600); err != nil {
				t.Fatal(err)
			}
			wantFindings(t, d, []string{"fault handler"}, "restart containerd")
			restart(t, d, d.Start)
			wantFindings(t, d, []string{})
			if d.Server().Modern() {
				return
			}
			_, handler, _ = strings.Cut(handler, "io.containerd.runc.v2'\n") // without the table of runc
			if err := os.WriteFile(config, append(text, handler...), 0o600); err != nil {
				t.Fatal(err)
			}
			restart(t, d, d.StartWithoutCRI)
			wantFindings(t, d, []string{"fault handler"}, "did not start", "containerd/1.x/runc.toml", config)
		})
	}
}

func restart(t *testing.T, d *harness.Daemon, start func(context.Context) error) {
	t.Helper()
	if err := d.Terminate(); err != nil {
		t.Fatal(err)
	}
	if err := start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A containerd that serves no Kubernetes has no fault, and one that does not run is one.
func TestDoctorWithoutCRI(t *testing.T) {
	d := node(t, "2.4", func(config *harness.DaemonConfig) { config.CRI = false })
	wantFindings(t, d, []string{"note handler"}, "switched off")
	wantFindingsAt(t, d, filepath.Join(d.Dir, "nobody.sock"), []string{"fault containerd"}, "--address", "systemctl start containerd")
}

// What is to be known, and no fault: NRI plugins, and shims of another build after an upgrade.
func TestDoctorNotes(t *testing.T) {
	b := bed.OnOwnCRI(t)
	wantFindings(t, b.Daemon, []string{})
	plugin := b.ConnectPlugin("10")
	bed.Poll(b.T, "the plugin's synchronization", plugin.IsSynchronized)
	wantFindings(t, b.Daemon, []string{"note nri"}, "timeoutSeconds")

	bin := t.TempDir()
	bed.InstallFrom(t, bed.BinDir(t), bin, "containerd-shim-lifecycle-v2", "lifecycle-hookexec")
	h := bed.StartPodHost(t, harness.DaemonConfig{
		Server: server(t, "2.4"), BinDir: bed.BinDir(t), CRI: true, ShimPath: []string{bin}, Handlers: map[string]harness.RuntimeHandler{bed.HandlerLifecycle: {Type: bed.Runtime}},
	}, harness.Watch{})
	own := bed.OnPodHost(t, h)
	own.Pod(nil)
	wantFindings(t, h.Daemon, []string{})
	bed.InstallFrom(t, bed.BinDir(t), bin, "containerd-shim-lifecycle-v2") // a new file in its place
	wantFindings(t, h.Daemon, []string{"note other-build"}, "(1, such as process")
}

// An operator reads it as a table.
func TestDoctorTable(t *testing.T) {
	d := node(t, "2.4", func(config *harness.DaemonConfig) { config.ExtraConfig = handlerTOML(config.Server, good) })
	command := exec.CommandContext(t.Context(), filepath.Join(bed.BinDir(t), "lifecyclectl"), "-a", d.Address, "doctor")
	out, err := command.CombinedOutput()
	for _, part := range []string{"containerd  " + d.Address, "fault  pod-annotations  " + d.Address, "cure: set its pod_annotations", "2 faults"} {
		if !strings.Contains(string(out), part) {
			t.Errorf("%v: the table does not say %q:\n%s", err, part, out)
		}
	}
	if command.ProcessState.ExitCode() != 1 {
		t.Errorf("exit status %d, want 1", command.ProcessState.ExitCode())
	}
}

func link(t *testing.T, file, dir string) {
	t.Helper()
	if err := os.Symlink(file, filepath.Join(dir, filepath.Base(file))); err != nil {
		t.Fatal(err)
	}
}

// etcWith is an /etc with these settings, and little else.
func etcWith(t *testing.T, settings string) string {
	t.Helper()
	etc := t.TempDir()
	files := map[string]string{"passwd": "root:x:0:0::/root:/bin/sh\n", "group": "root:x:0:\n", "lifecycle-shim/config.toml": settings}
	for name, text := range files {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return etc
}
