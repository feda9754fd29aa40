package host

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// runtimeScript stands for an OCI runtime: it notes how it is called, makes a process that
// waits for its start, and fails where a file says so.
const runtimeScript = `#!/bin/sh
dir=$(dirname "$0")
echo "$@" >> "$dir/calls"
while [ $# -gt 0 ]; do
	case $1 in
	--log) log=$2; shift ;;
	--bundle) bundle=$2; shift ;;
	--pid-file) pid=$2; shift ;;
	create|start|delete) command=$1 ;;
	esac
	shift
done
if [ -e "$dir/fails-$command" ]; then
	echo words of its own >&2
	[ -s "$dir/fails-$command" ] && cat "$dir/fails-$command" > "$log"
	exit 9
fi
case $command in
create)
	cp "$bundle/config.json" "$dir/config"
	ls "$dir/rootfs/proc/self/cmdline" > "$dir/mounts" 2>&1
	( while [ ! -e "$dir/started" ]; do sleep 0.01; done; echo onExit; echo error >&2; exit 5 ) &
	[ -e "$dir/fails-pid" ] || echo $! > "$pid" ;;
start) : > "$dir/started" ;;
esac
`

// ended is a container that has ended, with its runtime.
type ended struct {
	t     *testing.T
	dir   string
	after wire.After
}

func newEnded(t *testing.T) *ended {
	t.Helper()
	needsRoot(t)
	dir := t.TempDir()
	spec := smallSpec()
	spec.Root.Path = "rootfs"
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "runtime"), []byte(runtimeScript), 0o700),
		os.Mkdir(filepath.Join(dir, "rootfs"), 0o700),
		writeJSON(filepath.Join(dir, "config.json"), spec),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &ended{t: t, dir: dir, after: wire.After{
		Shim: os.Getpid(), ID: "c1-onExit", Bundle: dir, Dir: filepath.Join(dir, "onExit"), Runtime: filepath.Join(dir, "runtime"), Cgroup: "/g/c1",
		Namespaces: map[string]string{"mount": fmt.Sprintf("//proc/%d/ns/mnt", os.Getpid()), "uts": "//uts"},
	}}
}

// start runs an onExit. The process that a failed one leaves is made to end.
func (e *ended) start() started {
	e.t.Helper()
	request := wire.StartRequest{ID: id, Args: []string{"its"}, After: &e.after}
	return runHost(e.t, request, func() { e.write("started", "") })
}

func (e *ended) read(name string) string {
	e.t.Helper()
	data, err := os.ReadFile(filepath.Join(e.dir, name))
	if err != nil {
		e.t.Error(err)
	}
	return string(data)
}

func (e *ended) write(name, text string) {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, name), []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// calls of the runtime, less the options that are always there.
func (e *ended) calls() string {
	e.t.Helper()
	always := fmt.Sprintf("--root %s/runtime --log %s/log.json --log-format json ", e.after.Dir, e.after.Dir)
	text := e.read("calls")
	if strings.Count(text, always) != strings.Count(text, "\n") {
		e.t.Errorf("the runtime is called by %q", text)
	}
	return strings.ReplaceAll(text, always, "")
}

// TestStartAfter: the runtime makes the onExit of what is left; its process is announced,
// and known by its pidfd, before it runs.
func TestStartAfter(t *testing.T) {
	e := newEnded(t)
	got := e.start()
	if got.announced == 0 || got.announced != got.response.Pid || got.response.Error != "" || got.status != 0 || got.pidfds != 1 || got.output != "onExit\nerror\n" || got.handler.ExitStatus() != 5 {
		t.Errorf("got %+v", got)
	}
	if want := fmt.Sprintf("create --bundle %s --pid-file %s/pid c1-onExit\nstart c1-onExit\n", e.after.Dir, e.after.Dir); e.calls() != want {
		t.Errorf("the runtime is called by %q, want %q", e.calls(), want)
	}
	var spec specs.Spec
	if err := json.Unmarshal([]byte(e.read("config")), &spec); err != nil {
		t.Fatal(err)
	}
	dev := spec.Mounts[len(spec.Mounts)-1]
	if spec.Root.Path != filepath.Join(e.dir, "rootfs") || !slices.Equal(spec.Process.Args, []string{"its"}) || dev.Destination != "/dev" || dev.Source != filepath.Join(e.dir, "rootfs/dev") {
		t.Errorf("the onExit's spec is %+v", spec)
	}
	// The mounts were there for the runtime, and for nobody else.
	if got := strings.TrimSpace(e.read("mounts")); got != filepath.Join(e.dir, "rootfs/proc/self/cmdline") {
		t.Errorf("the runtime has seen %q", got)
	}
	if entries, err := os.ReadDir(filepath.Join(e.dir, "rootfs")); len(entries) > 0 || err != nil {
		t.Errorf("mounts are left: %v, %v", entries, err)
	}
}

func TestStartAfterFails(t *testing.T) {
	for name, test := range map[string]struct {
		happens   func(*ended)
		says      string
		announced bool
	}{
		"in the runtime's words":     {func(e *ended) { e.write("fails-create", `{"level":"error","msg":"no room"}`) }, "runtime create: no room", false},
		"without a word":             {func(e *ended) { e.write("fails-create", "") }, "runtime create: exit status 9", false},
		"at its start":               {func(e *ended) { e.write("fails-start", `{"level":"error","msg":"no start"}`) }, "runtime start: no start", true},
		"without a pid":              {func(e *ended) { e.write("fails-pid", "") }, "onExit/pid: no such file", false},
		"without a bundle":           {func(e *ended) { e.after.Bundle = "/nowhere" }, "/nowhere/config.json", false},
		"without a root":             {func(e *ended) { _ = os.Remove(filepath.Join(e.dir, "rootfs")) }, "the container's mounts: move_mount", false},
		"without a mount namespace":  {func(e *ended) { e.after.Namespaces = nil }, "the container's mounts: open", false},
		"with another one":           {func(e *ended) { e.after.Namespaces["mount"] = "/proc/self/ns/uts" }, "the container's mounts: setns", false},
		"without a shim":             {func(e *ended) { e.after.Shim = 1 }, "the shim is gone", false},
		"without a directory":        {func(e *ended) { e.after.Dir = "/nowhere/onExit" }, "/nowhere/onExit.lock", false},
		"with a file in its place":   {func(e *ended) { e.write("onExit", "") }, "onExit: not a directory", false},
		"with a runtime that is not": {func(e *ended) { e.after.Runtime = "/nowhere/runc" }, "runc create: fork/exec", false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnded(t)
			test.happens(e)
			got := e.start()
			if !strings.Contains(got.response.Error, test.says) || got.status != 1 || (got.announced > 0) != test.announced {
				t.Errorf("got %+v, want %q", got, test.says)
			}
		})
	}
}

// TestCreateArgs are the container's own.
func TestCreateArgs(t *testing.T) {
	after := wire.After{ID: "x", Dir: "/d"}
	if got := strings.Join(createArgs(&after, "/p"), " "); got != "create --bundle /d --pid-file /p x" {
		t.Errorf("got %q", got)
	}
	after.NoPivotRoot, after.NoNewKeyring = true, true
	if got := strings.Join(createArgs(&after, "/p"), " "); got != "create --bundle /d --pid-file /p --no-pivot --no-new-keyring x" {
		t.Errorf("got %q", got)
	}
}

// TestClean removes what the runtime knows of, and all files, also where that fails.
func TestClean(t *testing.T) {
	e := newEnded(t)
	e.after.SystemdCgroup = true
	if err := Clean(e.after); err != nil { // nothing was begun
		t.Error(err)
	}
	begin := func() {
		t.Helper()
		for _, name := range []string{"c1-onExit", ".cache"} {
			if err := os.MkdirAll(filepath.Join(e.after.Dir, "runtime", name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	begin()
	if err := Clean(e.after); err != nil {
		t.Error(err)
	}
	if got := e.calls(); got != "--systemd-cgroup delete --force c1-onExit\n" {
		t.Errorf("the runtime is called by %q", got)
	}
	if _, err := os.Stat(e.after.Dir); !os.IsNotExist(err) {
		t.Errorf("something is left: %v", err)
	}
	begin()
	e.write("fails-delete", `{"level":"error","msg":"busy"}`)
	if err := Clean(e.after); err == nil || err.Error() != "runtime delete: busy" {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(e.after.Dir); !os.IsNotExist(err) {
		t.Errorf("something is left: %v", err)
	}
	if err := os.Remove(e.after.Dir + ".lock"); err != nil {
		t.Error(err)
	}
	if err := errorsOf(os.MkdirAll(e.after.Dir, 0o700), os.Mkdir(e.after.Dir+".lock", 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := Clean(e.after); err == nil || !strings.Contains(err.Error(), "onExit.lock") {
		t.Errorf("without a lock: %v", err)
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestLastError of a runtime's log, which may be cut anywhere.
func TestLastError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := lastError(path); got != "" {
		t.Errorf("of no log: %q", got)
	}
	for text, want := range map[string]string{
		"": "", "nonsense\n": "",
		`{"level":"error","msg":"a"}`: "a",
		`{"level":"error","msg":"a"}` + "\n" + `{"level":"error","msg":"b"}` + "\n" + `{"level":"warning","msg":"c"}` + "\n" + `{"level":"error","msg":"`: "b",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastError(path); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// TestKeepDev: with the flags that it has; a link in its place leads out of the container.
func TestKeepDev(t *testing.T) {
	needsRoot(t)
	root := t.TempDir()
	dev := filepath.Join(root, "dev")
	spec := &specs.Spec{Root: &specs.Root{Path: root}}
	if err := keepDev(spec); err == nil {
		t.Error("a /dev that is not there is kept")
	}
	if err := os.Symlink("/dev", dev); err != nil {
		t.Fatal(err)
	}
	if err := keepDev(spec); err == nil || !strings.Contains(err.Error(), "no directory any more") || len(spec.Mounts) > 0 {
		t.Errorf("a link in its place: %v, %+v", err, spec.Mounts)
	}
	if err := errorsOf(os.Remove(dev), os.Mkdir(dev, 0o700)); err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[uintptr][]string{
		0:              {"rbind"},
		unix.MS_RDONLY: {"rbind", "ro"},
		unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC: {"nodev", "noexec", "nosuid", "rbind"},
	} {
		if err := unix.Mount("tmpfs", dev, "tmpfs", flags, "size=4k"); err != nil {
			t.Fatal(err)
		}
		spec.Mounts = []specs.Mount{{Destination: "/proc"}}
		err := keepDev(spec)
		if unmountErr := unix.Unmount(dev, unix.MNT_DETACH); unmountErr != nil {
			t.Error(unmountErr)
		}
		if err != nil || len(spec.Mounts) != 2 {
			t.Fatalf("%v, %+v", err, spec.Mounts)
		}
		got := spec.Mounts[1]
		slices.Sort(got.Options)
		if !slices.Equal(got.Options, want) || got.Destination != "/dev" || got.Source != dev || got.Type != "bind" {
			t.Errorf("flags %#x: got %+v, want %q", flags, got, want)
		}
	}
}

// TestAfterNamespacesOfAnOldKernel: one that was not kept is left out.
func TestAfterNamespaces(t *testing.T) {
	own := []specs.LinuxNamespace{{Type: specs.TimeNamespace}, {Type: specs.MountNamespace, Path: "/m"}, {Type: specs.PIDNamespace, Path: "/p"}, {Type: specs.IPCNamespace}}
	got := afterNamespaces(own, map[string]string{"ipc": "//i", "mount": "//m", "pid": "//p"})
	want := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace, Path: "/p"}, {Type: specs.IPCNamespace, Path: "//i"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestAfterRoot that is absolute stays.
func TestAfterRoot(t *testing.T) {
	spec := smallSpec()
	spec.Root.Path = "/r"
	if got := afterSpec(spec, wire.StartRequest{After: &wire.After{Bundle: "/b"}}); got.Root.Path != "/r" {
		t.Errorf("got %q", got.Root.Path)
	}
}
