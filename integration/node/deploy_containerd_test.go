package node

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// deployFile is a file of deploy/, by its path there. TestDeployFilesAreUsed looks for their names.
func deployFile(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func readDeployFile(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(deployFile(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func server(t testing.TB, name string) harness.Server {
	t.Helper()
	servers := harness.Servers(bed.BinDir(t))
	i := slices.IndexFunc(servers, func(s harness.Server) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("containerd %s is not installed: run `make deps servers`", name)
	}
	return servers[i]
}

// deployCase is a file of deploy/containerd under one of the servers that it is for.
type deployCase struct {
	file   string // below deploy/
	server harness.Server
}

// serversOf are the servers by the directories of deploy/containerd. Debian's 1.6.20 does not do what the files with
// a runtime_path ask for: TestDeployContainerdIgnoresRuntimePath.
func serversOf(dir, name string) []string {
	switch {
	case dir == "2.x":
		return []string{"2.4"}
	case dir == "1.x" && strings.Contains(name, "-runc-"):
		return []string{"1.7"}
	case dir == "1.x":
		return []string{"1.7", "1.6"}
	}
	return nil
}

// deployCases are made of what there is in deploy/containerd, so that no file is forgotten.
func deployCases(t *testing.T) []deployCase {
	t.Helper()
	files, err := filepath.Glob("../../deploy/containerd/*/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in deploy/containerd: %v", err)
	}
	var cases []deployCase
	for _, file := range files {
		dir := filepath.Base(filepath.Dir(file))
		servers := serversOf(dir, filepath.Base(file))
		if len(servers) == 0 {
			t.Errorf("%s: for which containerd is it?", file)
		}
		if filepath.Base(file) == "runc.toml" {
			continue // it goes with each of the others
		}
		for _, name := range servers {
			cases = append(cases, deployCase{filepath.Join("containerd", dir, filepath.Base(file)), server(t, name)})
		}
	}
	return cases
}

func (c deployCase) name() string {
	return c.server.Name + "-" + strings.TrimSuffix(filepath.Base(c.file), ".toml")
}

func (c deployCase) systemd() bool { return strings.HasSuffix(c.file, "-systemd.toml") }

// criPlugin is CRI's, under the name that it has in this containerd.
func criPlugin(server harness.Server) string {
	if server.Modern() {
		return "io.containerd.cri.v1.runtime"
	}
	return "io.containerd.grpc.v1.cri"
}

// TopicStart starts the containerd with the very file, in the way that the file asks for: 1.x has it at the end of its
// configuration, 2.x imports it. What is added keeps runc's state apart from the machine's. The product is where `make
// install` puts it.
func (c deployCase) TopicStart(t *testing.T) *bed.PodBench {
	t.Helper()
	bin := bed.BinDir(t)
	dir, err := os.MkdirTemp("/run", "lcs-deploy-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // removed by the daemon's end already
	config := harness.DaemonConfig{
		Server: c.server, Dir: dir, BinDir: bin, Debug: true, CRI: true, Binds: map[string]string{"/usr/local/bin": bin},
	}
	text := readDeployFile(t, c.file)
	table := fmt.Sprintf("[plugins.'%s'.containerd.runtimes.lifecycle.options]\n", criPlugin(c.server))
	root := fmt.Sprintf("Root = %q\n", filepath.Join(dir, "runc"))
	if c.server.Name == "1.6" { // it passes no options but a file's path to a runtime that is not of runc's type
		root = optionsFile(t, root)
	}
	if c.server.Modern() {
		isolation := filepath.Join(t.TempDir(), "isolation.toml")
		if err := os.WriteFile(isolation, []byte("version = 3\n"+table+root), 0o600); err != nil {
			t.Fatal(err)
		}
		config.Imports = []string{deployFile(t, c.file), isolation}
	} else {
		if _, last, found := strings.Cut(text, table); found {
			if strings.Contains(last, "[") {
				t.Fatalf("the options are not the last table of %s", c.file)
			}
			table = ""
		}
		config.ExtraConfig = readDeployFile(t, "containerd/1.x/runc.toml") + text + table + root
	}
	return bed.OnPodHost(t, bed.StartPodHost(t, config, harness.Watch{}, harness.ImageBusybox))
}

// optionsFile writes a runtime's options into a file, and returns the option that names it.
func optionsFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "options.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("TypeUrl = 'lifecycle.v1.Options'\nConfigPath = %q\n", path)
}

// optionsInUserNamespace is how containerd puts it.
const optionsInUserNamespace = `can't unmarshal type "runtimeoptions.v1.Options" to output "containerd.runc.v1.Options"`

// FAULTS C5: with options in its table, the shim's own type starts no container in a user namespace, so CRI must not offer it: the
// kubelet then refuses the pod. This is why there are the files of runc's type.
func TestDeployContainerdUserNamespaceWithOptions(t *testing.T) {
	b := deployCase{"containerd/2.x/lifecycle.toml", server(t, "2.4")}.TopicStart(t)
	wantFeatures(b, false)
	pod := b.Pod(nil, func(config *harness.PodConfig) { config.UserNamespace, config.HostNetwork = true, false })
	_, err := b.Create(pod, bed.Obedient).Start(b.Context())
	bed.WantError(t, err, optionsInUserNamespace)
}

// wantFeatures wants CRI to offer recursive read-only mounts, and user namespaces or not.
func wantFeatures(b *bed.PodBench, userNamespaces bool) {
	b.Helper()
	features, err := b.CRI.Features(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for name, want := range map[string]bool{bed.HandlerLifecycle: userNamespaces, "runc": true} {
		got := features[name]
		if got == nil || got.GetUserNamespaces() != want || !got.GetRecursiveReadOnlyMounts() {
			b.Errorf("CRI reports of handler %s: %v, want user namespaces %t, recursive read-only mounts true", name, got, want)
		}
	}
}

// runtimeConfig is what the CRI plugin has understood of a handler.
type runtimeConfig struct {
	RuntimeType, RuntimePath             string
	PodAnnotations, ContainerAnnotations []string
	Options                              map[string]any
}

func runtimes(b *bed.PodBench) map[string]runtimeConfig {
	b.Helper()
	info, err := b.CRI.Info(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var config struct {
		Containerd struct{ Runtimes map[string]runtimeConfig }
	}
	if err := json.Unmarshal([]byte(info["config"]), &config); err != nil {
		b.Fatalf("CRI's configuration %q: %v", info["config"], err)
	}
	return config.Containerd.Runtimes
}

// Every file of deploy/containerd makes its containerd run handlers in pods.
func TestDeployContainerd(t *testing.T) {
	for _, c := range deployCases(t) {
		t.Run(c.name(), func(t *testing.T) {
			t.Parallel()
			b := c.TopicStart(t)
			runtimes := runtimes(b)
			if _, ok := runtimes["runc"]; !ok {
				b.Errorf("runtimes %v: containerd's own is lost", runtimes)
			}
			handler := runtimes["lifecycle"]
			if systemd, _ := handler.Options["SystemdCgroup"].(bool); systemd != c.systemd() {
				b.Errorf("CRI has the options %v", handler.Options)
			}
			if c.systemd() {
				wantSystemdCgroups(b)
				return
			}
			wantPodWithHandlers(b)
			if !strings.Contains(c.file, "-runc-") {
				wantSystemdCgroups(b) // it serves both
			}
		})
	}
}

// wantPodWithHandlers runs one, and sees the annotations and options that the file lets through do their work.
func wantPodWithHandlers(b *bed.PodBench, edit ...func(*harness.PodConfig)) {
	b.Helper()
	pod := b.Pod(bed.Annotations{
		bed.KeyLifecycle:          "{postStart: {exec: {command: [\"false\"]}}}", // the named one wins
		"app." + bed.KeyLifecycle: "{postStart: {" + bed.Shell(bed.WaitForReady+"echo warm > warm; exit 3") + "}}",
		"web." + bed.KeyLifecycle: "{postStart: {" + bed.Shell("echo hello > message; cat /proc/self/cgroup > cgroup") + "}, preStop: {" + bed.Shell("echo bye > message") + "}}",
		"example.com/annotation":  "not let through",
	}, edit...)
	web := b.Create(pod, bed.Obedient, func(config *harness.PodContainerConfig) { config.Name = "web" })
	web.MustStart()
	web.WaitFor("ready")
	if got := web.Read("message"); got != "hello\n" {
		b.Errorf("postStart has written %q", got)
	}
	if scope := "/cri-containerd-" + web.ID + ".scope\n"; strings.Contains(handlersCgroups(web), scope) != (len(edit) > 0) {
		b.Errorf("the handler's cgroups are\n%s", handlersCgroups(web))
	}
	if _, err := os.Stat(filepath.Join(b.Daemon.RuncRoot, "k8s.io", web.ID)); err != nil {
		b.Errorf("the option Root did not reach runc: %v", err)
	}
	if _, err := web.Stop(b.Context(), bed.Limit); err != nil {
		b.Error(err)
	}
	if got := web.Read("message"); got != "bye\n" {
		b.Errorf("preStop has written %q", got)
	}
	web.WantExit(7)

	// The kubelet's annotation of the container is let through: a container that stays is killed after its grace period.
	app := b.Create(pod, bed.Forever, func(config *harness.PodContainerConfig) { config.Annotations = bed.Annotations{bed.KeyGrace: "2"} })
	_, err := app.Start(b.Context())
	app.WantFailedStart(err, "postStart handler failed: exit status 3")
	if graced := app.Graced(); graced >= bed.CRIGrace {
		b.Errorf("the container was killed %s after its signal: the pod's grace period of 2 s is not known", graced)
	}
}

// handlersCgroups are what the handler has read of itself in proc. On v2 CRI's containers have a cgroup namespace, in which the root is the
// container's own cgroup, wherever that is: its process knows, seen from outside.
func handlersCgroups(c *bed.PodContainer) string {
	c.B.Helper()
	const root = "0::/\n"
	seen := c.Read("cgroup")
	if seen != root {
		return seen
	}
	state, err := c.Task().State(c.B.Context())
	if err != nil {
		c.B.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", state.PID))
	if err != nil || string(text) == root {
		c.B.Errorf("the container's process has the cgroups %q, %v", text, err)
	}
	return string(text)
}

// wantSystemdCgroups wants a pod whose cgroups are systemd's scopes. Where none runs, runc must have been asked for them, and say
// that it cannot: TestUnderSystemd runs this test again.
func wantSystemdCgroups(b *bed.PodBench) {
	b.Helper()
	slice := strings.ReplaceAll(strings.TrimPrefix(b.CgroupParent(), "/"), "-", "_") + ".slice" // a dash would be a slice in a slice
	inSlice := func(config *harness.PodConfig) { config.CgroupParent = "/" + slice }
	if systemdRuns() {
		b.Cleanup(func() { _ = exec.Command("systemctl", "stop", slice).Run() }) // after the pods, as it kills them: runc leaves it, empty
		wantPodWithHandlers(b, inSlice)
		wantOnExitInScope(b, inSlice)
		wantOOMInScope(b, inSlice)
		return
	}
	config := harness.PodConfig{Name: b.Name() + "-systemd", Handler: bed.HandlerLifecycle, HostNetwork: true}
	inSlice(&config)
	_, err := b.CRI.RunPod(b.Context(), config)
	bed.WantError(b.T, err, "systemd not running on this host, cannot use systemd cgroups manager")
}

// wantOnExitInScope: systemd removes a scope with its last process, so onExit has its own, with the same limits.
func wantOnExitInScope(b *bed.PodBench, inSlice func(*harness.PodConfig)) {
	b.Helper()
	block := "{onExit: {" + bed.Shell(bed.ReportHere+"cat /proc/1/cgroup > cgroup; tail /dev/zero; echo $? > hog") + ", timeoutSeconds: 100}}"
	c := b.Create(b.Pod(bed.Annotations{bed.KeyLifecycle: block}, inSlice), []string{"/bin/sh", "-c", "exit 3"}, func(config *harness.PodContainerConfig) {
		config.Name, config.MemoryLimit = "app", 32<<20
	})
	c.MustStart()
	c.WantExit(3)
	if got := c.Read("told"); got != "onExit exit-code code=3 signal=\n" {
		b.Errorf("told %q", got)
	}
	if got := c.Read("cgroup"); !strings.Contains(got, c.ID+"-onexit.scope") && !strings.Contains(got, ":/\n") {
		b.Errorf("its cgroups are %q", got)
	}
	if got := c.Read("hog"); got != "137\n" {
		b.Errorf("a process that takes all memory ended with %q, want 137", got)
	}
}

// wantOOMInScope: systemd may have removed the scope, and with it the count of OOM kills, before onExit could get it. One in its slice
// is none of a container that is killed on request.
func wantOOMInScope(b *bed.PodBench, inSlice func(*harness.PodConfig)) {
	b.Helper()
	pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{onExit: {" + bed.Shell(bed.ReportHere) + ", timeoutSeconds: 100}}"}, inSlice)
	run := func(name string, args []string) *bed.PodContainer {
		c := b.Create(pod, args, func(config *harness.PodContainerConfig) { config.Name, config.MemoryLimit = name, 32<<20 })
		c.MustStart()
		return c
	}
	bystander := run("bystander", bed.Forever)
	hog := run("hog", bed.MemoryHog)
	hog.WantExit(137) // CRI's reason may be Error: containerd looks at the same count, and may come too late
	bystander.MustStop(0)
	bystander.WantExit(137)
	for c, want := range map[*bed.PodContainer]string{hog: bed.Reported(b.T, bed.ReportedOOM, bed.ReportedOOMBefore), bystander: bed.Reported(b.T, bed.ReportedSIGKILL, bed.ReportedSIGKILLBefore)} {
		if got := c.Read("told"); got != want+"\n" {
			b.Errorf("told %q, want %q", got, want)
		}
	}
}

// A pod in a user namespace runs with each of the files, as no options are in the way of the one of the shim's own type. A table
// without options is not in the way either.
func TestDeployContainerdUserNamespace(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.toml")
	table := "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.lifecycle.options]\n"
	if err := os.WriteFile(empty, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, imports := range map[string][]string{
		"own type":                         {deployFile(t, "containerd/2.x/lifecycle.toml")},
		"own type, empty table of options": {deployFile(t, "containerd/2.x/lifecycle.toml"), empty},
		"runc's type":                      {deployFile(t, "containerd/2.x/lifecycle-runc-cgroupfs.toml")},
	} {
		t.Run(name, func(t *testing.T) {
			bin := bed.BinDir(t)
			b := bed.OnPodHost(t, bed.StartPodHost(t, harness.DaemonConfig{
				Server: server(t, "2.4"), BinDir: bin, Debug: true, CRI: true,
				Binds: map[string]string{"/usr/local/bin": bin}, Imports: imports,
			}, harness.Watch{}, harness.ImageBusybox))
			b.Cleanup(func() { _ = os.Remove("/run/containerd/runc/k8s.io") }) // runc leaves it, empty
			wantFeatures(b, true)
			pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell("cat /proc/self/uid_map > map") + "}}"}, func(config *harness.PodConfig) {
				config.UserNamespace, config.HostNetwork = true, false
			})
			c := b.Create(pod, bed.Obedient)
			c.MustStart()
			if got := strings.Fields(c.Read("map")); !slices.Equal(got, []string{"0", "1000000", "65536"}) {
				b.Errorf("the handler's users are mapped so: %q", got)
			}
		})
	}
}

// What deploy/containerd says of 1.6.20 is true: it takes no notice of runtime_path, and the pod runs without handlers.
func TestDeployContainerdIgnoresRuntimePath(t *testing.T) {
	old := server(t, "1.6")
	if version, err := exec.CommandContext(t.Context(), old.Binary, "--version").Output(); err != nil || !strings.Contains(string(version), " 1.6.20~") {
		t.Fatalf("%s is %q (%v), no longer 1.6.20: is this still so, and deploy/containerd right?", old.Binary, version, err)
	}
	b := deployCase{"containerd/1.x/lifecycle-runc-cgroupfs.toml", old}.TopicStart(t)
	c := b.App("{postStart: {"+bed.Shell("touch ran")+"}}", bed.Obedient)
	c.MustStart()
	c.WaitFor("ready")
	if c.Exists("ran") {
		b.Error("the handler has run")
	}
}

// nodeConfig is what a node's administrator has set before.
const nodeConfig = "[plugins.'io.containerd.grpc.v1.cri'.cni]\nconf_dir = '/srv/cni'\n"

// What the files say of how containerd merges them is true.
func TestDeployContainerdMerging(t *testing.T) {
	for _, old := range []string{"1.6", "1.7"} {
		file := deployFile(t, "containerd/1.x/lifecycle.toml")
		handler, runc := readDeployFile(t, "containerd/1.x/lifecycle.toml"), readDeployFile(t, "containerd/1.x/runc.toml")
		got := dump(t, server(t, old), "version = 2\n"+nodeConfig+handler+runc)
		if got.confDir != "/srv/cni" || !slices.Equal(got.runtimes, []string{"lifecycle", "runc"}) {
			t.Errorf("%s, appended: %+v", old, got)
		}
		got = dump(t, server(t, old), "version = 2\n"+nodeConfig+handler)
		if !slices.Equal(got.runtimes, []string{"lifecycle"}) {
			t.Errorf("%s does not forget runc any more: %+v", old, got)
		}
		got = dump(t, server(t, old), fmt.Sprintf("version = 2\nimports = [%q]\n", file)+nodeConfig)
		if got.confDir == "/srv/cni" {
			t.Errorf("%s keeps by now what an imported file does not say: %+v", old, got)
		}
	}
	if _, err := dumpText(t, server(t, "1.7"), "version = 3\n"); err == nil { // 1.6.20 takes any number, and understands 2 alone
		t.Error("1.7 understands version 3 by now")
	}
	file := deployFile(t, "containerd/2.x/lifecycle.toml")
	for _, version := range []string{
		"version = 2\nimports = [%q]\n" + nodeConfig,
		"version = 3\nimports = [%q]\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nconf_dir = '/srv/cni'\n",
		"version = 4\nimports = [%q]\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nconf_dir = '/srv/cni'\n",
	} {
		got := dump(t, server(t, "2.4"), fmt.Sprintf(version, file))
		if got.confDir != "/srv/cni" || !slices.Equal(got.runtimes, []string{"lifecycle", "runc"}) {
			t.Errorf("2.4, imported: %+v", got)
		}
	}
}

// dumped is what containerd makes of its configuration files.
type dumped struct {
	confDir  string
	runtimes []string // in the order of their names
}

func dump(t *testing.T, server harness.Server, config string) dumped {
	t.Helper()
	text, err := dumpText(t, server, config)
	if err != nil {
		t.Fatal(err)
	}
	var decoded struct {
		Plugins map[string]struct {
			CNI struct {
				ConfDir string `toml:"conf_dir"`
			}
			Containerd struct{ Runtimes map[string]any }
		}
	}
	if err := toml.Unmarshal(text, &decoded); err != nil {
		t.Fatal(err)
	}
	cri := decoded.Plugins[criPlugin(server)]
	return dumped{confDir: cri.CNI.ConfDir, runtimes: slices.Sorted(maps.Keys(cri.Containerd.Runtimes))}
}

func dumpText(t *testing.T, server harness.Server, config string) ([]byte, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), server.Binary, "--config", path, "config", "dump").Output()
}
