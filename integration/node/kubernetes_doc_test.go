package node

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

const kubernetesDoc = "docs/use/kubernetes.md"

// The files, pages and sections that the page names exist.
func TestKubernetesDocNames(t *testing.T) {
	doc := docpage.Read(t, kubernetesDoc)
	for _, pattern := range []struct{ dir, names string }{
		{"../..", `\bdeploy/[a-z/.0-9-]*[a-z]`}, {"../../deploy/containerd", `\b[12]\.x/[a-z-]+\.toml`}, {"../../docs/use", `\(([a-z]+\.md)\)`},
	} {
		names := regexp.MustCompile(pattern.names).FindAllStringSubmatch(doc, -1)
		if len(names) == 0 {
			t.Errorf("nothing is named as %s", pattern.names)
		}
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(pattern.dir, name[len(name)-1])); err != nil {
				t.Error(err)
			}
		}
	}
	for _, link := range regexp.MustCompile(`\(#([a-z-]+)\)`).FindAllStringSubmatch(doc, -1) {
		heading := strings.ReplaceAll(link[1], "-", " ")
		if !strings.Contains(strings.ToLower(doc), "# "+heading+"\n") {
			t.Errorf("there is no section %q", heading)
		}
	}
	files, err := filepath.Glob("../../deploy/containerd/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if name := filepath.Base(filepath.Dir(file)) + "/" + filepath.Base(file); !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("the page does not name %s", name)
		}
	}
}

// The node's part of the five minutes, command by command.
func TestKubernetesDocNode(t *testing.T) {
	commands := docpage.Blocks(docpage.Section(docpage.Read(t, kubernetesDoc), "## By hand"), "sh")[0]
	prefix := t.TempDir()
	d := node(t, "2.4", func(config *harness.DaemonConfig) { config.ShimPath = []string{filepath.Join(prefix, "bin")} })
	i := installer{t, prefix, filepath.Join(d.Dir, "config.toml"), d.Server(), d.Pid()}
	done := 0
	for line := range strings.Lines(commands) {
		command, _, _ := strings.Cut(line, "#")
		switch command = strings.TrimSpace(command); command {
		case "deploy/node/install":
			i.mustRun()
		case "systemctl restart containerd":
			restart(t, d, d.Start)
		case "lifecyclectl doctor":
			doctor := exec.CommandContext(t.Context(), filepath.Join(prefix, "bin/lifecyclectl"), "doctor")
			doctor.Env = []string{"CONTAINERD_ADDRESS=" + d.Address}
			if out, err := doctor.CombinedOutput(); err != nil || !strings.Contains(string(out), "no fault found") {
				t.Errorf("%v\n%s", err, out)
			}
		default:
			t.Errorf("no test has tried %q", command)
		}
		done++
	}
	if done != 3 {
		t.Errorf("%d commands are found, want 3", done)
	}
}

// Each symptom of the page is what is said when its cause is there.
func TestKubernetesDocSymptoms(t *testing.T) {
	_, table, _ := strings.Cut(docpage.Read(t, kubernetesDoc), "| cause | cure |\n")
	said := symptoms(t)
	rows := 0
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		for _, symptom := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
			rows++
			words := strings.TrimSuffix(symptom[1], "…")
			if !slices.ContainsFunc(said, func(text string) bool { return strings.Contains(text, strings.TrimSpace(words)) }) {
				t.Errorf("nothing says %q of\n%s", words, strings.Join(said, "\n"))
			}
		}
	}
	if rows < 8 {
		t.Errorf("%d symptoms are found, there must be 8 at least", rows)
	}
}

// symptoms provokes them, and returns what is said. The first is TestDeployContainerdUserNamespaceWithOptions', and those of the API
// server are held by the tests of integration/kubernetes and of its webhook.
func symptoms(t *testing.T) []string {
	t.Helper()
	said := []string{
		optionsInUserNamespace, `RuntimeClass "lifecycle" not found`, `failed calling webhook "check.lifecycle-shim.io"`,
		"has lifecycle handlers and an annotation of lifecycle-shim.io", "is not what the annotation", "is still in spec, where the kubelet would run",
	}
	say := func(err error) {
		t.Helper()
		if err == nil {
			t.Fatal("no symptom")
		}
		said = append(said, err.Error())
	}
	without := t.TempDir()
	link(t, filepath.Join(bed.BinDir(t), "runc"), without)
	bed.InstallFrom(t, bed.BinDir(t), without, "containerd-shim-lifecycle-v2")
	shims := "runtime_type = 'io.containerd.lifecycle.v2'\n" + annotations
	server := server(t, "2.4")
	table := func(name string) string {
		return fmt.Sprintf("[plugins.'%s'.containerd.runtimes.%s", criPlugin(server), name)
	}
	b := bed.OnPodHost(t, bed.StartPodHost(t, harness.DaemonConfig{
		Server: server, BinDir: without, CRI: true, Env: []string{"PATH=" + without + ":/usr/sbin:/usr/bin:/sbin:/bin"},
		ExtraConfig: handlerTOML(server, shims) +
			table("systemd]\n") + shims + table("systemd.options]\nSystemdCgroup = true\n") +
			table("absent]\nruntime_type = 'io.containerd.runc.v2'\nruntime_path = '"+without+"/nothing'\n"),
	}, harness.Watch{}, harness.ImageBusybox))
	b.Cleanup(func() { _ = os.Remove("/run/containerd/runc/k8s.io") }) // runc leaves it, empty

	run := func(handler, cgroup string) error {
		_, err := b.CRI.RunPod(b.Context(), harness.PodConfig{Name: handler + cgroup, Handler: handler, CgroupParent: b.CgroupParent() + cgroup, HostNetwork: true})
		return err
	}
	say(run("lifecycle-absent", ""))
	said[len(said)-1] = strings.ReplaceAll(said[len(said)-1], "lifecycle-absent", "lifecycle")
	say(run("systemd", ""))
	if !systemdRuns() {
		say(run("systemd", ".slice"))
	} else {
		said = append(said, "systemd not running on this host, cannot use systemd cgroups manager")
	}
	start := func(block string) error {
		_, err := b.App(block, bed.Obedient).Start(b.Context())
		return err
	}
	say(start("{postStart: {" + bed.Shell("true") + "}}"))
	say(start("{postStart: {sleep: {seconds: -1}}}"))
	say(start("{postStart: {tcpSocket: {port: 1, host: 127.0.0.1}}}"))
	say(start("{postStart: {sleep: {seconds: 1000}, timeoutSeconds: 1}}"))

	own, runc := t.TempDir(), t.TempDir()
	bed.InstallFrom(t, filepath.Dir(server.Binary), own, filepath.Base(server.Binary)) // containerd finds what is beside itself
	link(t, filepath.Join(bed.BinDir(t), "runc"), runc)
	server.Binary = filepath.Join(own, filepath.Base(server.Binary))
	b = bed.OnPodHost(t, bed.StartPodHost(t, harness.DaemonConfig{
		Server: server, CRI: true, Env: []string{"PATH=" + runc}, ExtraConfig: handlerTOML(server, shims),
	}, harness.Watch{}))
	say(run("lifecycle", ""))
	return said
}
