package host

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// runtimeScript replaces an OCI runtime. It records its calls, creates a process that waits for
// its start, and fails if a certain file exists.
const runtimeScript = `#!/bin/sh
dir=$(dirname "$0")
echo "$@" >> "$dir/calls"
env > "$dir/environment"
pwd > "$dir/directory"
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
	echo text on stderr >&2
	[ -s "$dir/fails-$command" ] && cat "$dir/fails-$command" > "$log"
	exit 9
fi
case $command in
create)
	[ ! -e "$dir/hangs" ] || { echo $$ > "$dir/hanging.new"; mv "$dir/hanging.new" "$dir/hanging"; exec sleep 1000; }
	cp "$bundle/config.json" "$dir/config"
	ls "$dir/rootfs/proc/self/cmdline" > "$dir/mounts" 2>&1
	( while [ ! -e "$dir/started" ]; do sleep 0.01; done; echo onExit; echo error >&2; exit 5 ) &
	[ -e "$dir/fails-pid" ] || echo $! > "$pid" ;;
start) : > "$dir/started" ;;
esac
`

// ended is a container that has exited, with its runtime.
type ended struct {
	t      *testing.T
	dir    string
	onExit wire.OnExit
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
	return &ended{t: t, dir: dir, onExit: wire.OnExit{
		Shim: os.Getpid(), ID: "c1-onExit", Bundle: dir, Dir: filepath.Join(dir, "onExit"), Runtime: filepath.Join(dir, "runtime"), Cgroup: "/g/c1",
		Namespaces: map[string]string{"mount": fmt.Sprintf("//proc/%d/ns/mnt", os.Getpid()), "uts": "//uts"},
	}}
}

// start runs an onExit. If it fails, the process that it left is made to exit.
func (e *ended) start() started {
	e.t.Helper()
	request := wire.StartRequest{ID: id, Args: []string{"its"}, OnExit: &e.onExit}
	return runHost(e.t, request, func() { e.write("started", "") })
}

// nowhere returns a path that does not exist. It is below the test's directory, in case a mutant
// of the program creates it.
func (e *ended) nowhere() string { return filepath.Join(e.dir, "none") }

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

func (e *ended) mkdir(name string) {
	e.t.Helper()
	if err := os.MkdirAll(filepath.Join(e.dir, name), 0o700); err != nil {
		e.t.Fatal(err)
	}
}

// emptyMounts returns the mount namespace of a process whose root is an empty directory.
func emptyMounts(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	process := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none "$0" && cd "$0" && mkdir old && pivot_root . old && echo there && read line`, dir)
	stdin, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := process.StdoutPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = process.Wait() })
	if _, err := stdout.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("//proc/%d/ns/mnt", process.Process.Pid)
}

// calls returns the runtime's calls, without the options that they all have.
func (e *ended) calls() string {
	e.t.Helper()
	always := fmt.Sprintf("--root %s/runtime --log %s/log.json --log-format json ", e.onExit.Dir, e.onExit.Dir)
	text := e.read("calls")
	if strings.Count(text, always) != strings.Count(text, "\n") {
		e.t.Errorf("the runtime's calls are %q", text)
	}
	return strings.ReplaceAll(text, always, "")
}

// TestStartOnExit: the runtime creates the onExit from the kept namespaces and mounts. Its
// process is announced, and its pidfd is sent, before it runs.
func TestStartOnExit(t *testing.T) {
	e := newEnded(t)
	got := e.start()
	if got.announced == 0 || got.announced != got.response.Pid || got.response.Error != "" || got.status != 0 || got.pidfds != 1 || got.output != "onExit\nerror\n" || got.handler.ExitStatus() != 5 {
		t.Errorf("got %+v", got)
	}
	if want := fmt.Sprintf("create --bundle %s --pid-file %s/pid c1-onExit\nstart c1-onExit\n", e.onExit.Dir, e.onExit.Dir); e.calls() != want {
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
	if info, err := os.Stat(e.onExit.Dir); err != nil || info.Mode().Perm() != 0o700 { // it contains the container's environment
		t.Errorf("the onExit's directory: %v, %v", info.Mode(), err)
	}
	if got := strings.TrimSpace(e.read("directory")); got != e.onExit.Dir {
		t.Errorf("the runtime runs in %q", got)
	}
	for line := range strings.Lines(e.read("environment")) { // the shell adds two
		if name, _, _ := strings.Cut(line, "="); !slices.Contains([]string{"PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"}, name) {
			t.Errorf("the runtime's environment has %q", line)
		}
	}
	// Only the runtime saw the mounts.
	if got := strings.TrimSpace(e.read("mounts")); got != filepath.Join(e.dir, "rootfs/proc/self/cmdline") {
		t.Errorf("the runtime has seen %q", got)
	}
	if entries, err := os.ReadDir(filepath.Join(e.dir, "rootfs")); len(entries) > 0 || err != nil {
		t.Errorf("mounts are left: %v, %v", entries, err)
	}
}

func TestStartOnExitFails(t *testing.T) {
	for name, test := range map[string]struct {
		happens   func(*ended)
		says      string
		announced bool
	}{
		"with the runtime's error":       {func(e *ended) { e.write("fails-create", `{"level":"error","msg":"no room"}`) }, "runtime create: no room", false},
		"without an error text":          {func(e *ended) { e.write("fails-create", "") }, "runtime create: exit status 9", false},
		"in the start":                   {func(e *ended) { e.write("fails-start", `{"level":"error","msg":"no start"}`) }, "runtime start: no start", true},
		"without a pid":                  {func(e *ended) { e.write("fails-pid", "") }, "onExit/pid: no such file", false},
		"without a bundle":               {func(e *ended) { e.onExit.Bundle = e.nowhere() }, "/none/config.json", false},
		"without a root":                 {func(e *ended) { _ = os.Remove(filepath.Join(e.dir, "rootfs")) }, "the container's mounts: move_mount", false},
		"without a mount namespace":      {func(e *ended) { e.onExit.Namespaces = nil }, "the container's mounts: open", false},
		"with another kind of namespace": {func(e *ended) { e.onExit.Namespaces["mount"] = "/proc/self/ns/uts" }, "the container's mounts: setns", false},
		"with an invalid spec":           {func(e *ended) { e.write("config.json", `{"process": {}, "linux": {}}`) }, "internal error", false},
		"without a /dev":                 {func(e *ended) { e.onExit.Namespaces["mount"] = emptyMounts(e.t) }, "the container's /dev: it is not a directory", false},
		"without its config.json":        {func(e *ended) { e.mkdir("onExit/config.json.new") }, "config.json.new: is a directory", false},
		"without a shim":                 {func(e *ended) { e.onExit.Shim = 1 }, "the shim is gone", false},
		"without a directory":            {func(e *ended) { e.onExit.Dir = e.nowhere() + "/onExit" }, "/none/onExit.lock", false},
		"with a file in its place":       {func(e *ended) { e.write("onExit", "") }, "onExit: not a directory", false},
		"without a runtime":              {func(e *ended) { e.onExit.Runtime = e.nowhere() + "/runc" }, "runc create: fork/exec", false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnded(t)
			test.happens(e)
			got := e.start()
			if test.announced && strings.Contains(got.output, "text on stderr") {
				t.Errorf("the runtime's words are the handler's output: %q", got.output)
			}
			if !strings.Contains(got.response.Error, test.says) || got.status != 1 || (got.announced > 0) != test.announced {
				t.Errorf("got %+v, want %q", got, test.says)
			}
		})
	}
}

// TestCreateArgs: the options are the container's own.
func TestCreateArgs(t *testing.T) {
	onExit := wire.OnExit{ID: "x", Dir: "/d"}
	if got := strings.Join(createArgs(&onExit, "/p"), " "); got != "create --bundle /d --pid-file /p x" {
		t.Errorf("got %q", got)
	}
	onExit.NoPivotRoot, onExit.NoNewKeyring = true, true
	if got := strings.Join(createArgs(&onExit, "/p"), " "); got != "create --bundle /d --pid-file /p --no-pivot --no-new-keyring x" {
		t.Errorf("got %q", got)
	}
}

// TestLastError: a runtime's log may be cut anywhere.
func TestLastError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if got := lastError(path); got != "" {
		t.Errorf("lastError without a log: %q", got)
	}
	for text, want := range map[string]string{
		"": "", "nonsense\n": "",
		`{"level":"error","msg":"a"}`: "a",
		`{"level":"error","msg":"a"}` + "\n" + `{"level":"error","msg":"b"}` + "\n" + `{"level":"warning","msg":"c"}` + "\n" + `{"level":"error","msg":"`: "b",
		`{"level":"error","msg":"a"}` + "\n" + `{"level":"error","msg":1}`:                                                                                "a",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastError(path); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// TestReadPid: the runtime writes the pid file.
func TestReadPid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	if pid, err := readPid(path); pid != 0 || !os.IsNotExist(err) {
		t.Errorf("a missing file: %d, %v", pid, err)
	}
	for text, want := range map[string]int{"12": 12, "12\n": 12, "": 0, "x": 0} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if pid, err := readPid(path); pid != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, pid, err)
		}
	}
}

// TestSendPidfd: it leaves no descriptor open, and fails if the process is gone.
func TestSendPidfd(t *testing.T) {
	own, other := sockets(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	if err := sendPidfd(os.Getpid(), own); err != nil || count() != before {
		t.Errorf("%v; %d descriptors, %d before", err, count(), before)
	}
	if got := receive(other); got != 1 {
		t.Errorf("received %d descriptors", got)
	}
	if err := sendPidfd(1<<22+1, own); err == nil || !strings.Contains(err.Error(), "open a pidfd") { // above every pid
		t.Errorf("a process that does not exist: %v", err)
	}
	_ = other.Close()
	if err := sendPidfd(os.Getpid(), own); err == nil || !strings.Contains(err.Error(), "send the pidfd") || count() != before-1 {
		t.Errorf("a socket without a peer: %v, %d descriptors", err, count())
	}
}

// TestCopyMounts: no descriptor stays open, and other namespaces do not see the mounts.
func TestCopyMounts(t *testing.T) {
	needsRoot(t)
	target, before := t.TempDir(), descriptors(t)
	type result struct {
		err    error
		copied bool
		left   []string
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread changes its namespace, and ends with this goroutine
		err := copyMounts("/proc/self/ns/mnt", target)
		_, seen := os.Stat(filepath.Join(target, "proc/self/cmdline"))
		done <- result{err, seen == nil, descriptors(t)}
	}()
	got := <-done
	if got.err != nil || !got.copied || !slices.Equal(got.left, before) {
		t.Errorf("got %+v, descriptors before: %q", got, before)
	}
	if entries, err := os.ReadDir(target); len(entries) > 0 || err != nil {
		t.Errorf("other namespaces see the mount: %v, %v", entries, err)
	}
}

// TestRuntimeEndsWithItsHost: if the host is killed, the runtime is killed too.
func TestRuntimeEndsWithItsHost(t *testing.T) {
	e := newEnded(t)
	e.write("hangs", "")
	host := exec.Command("/proc/self/exe", wire.CommandStart)
	control, controlHost := sockets(t)
	_, pidfdsHost := sockets(t)
	host.Env, host.ExtraFiles = []string{asHost + "=1"}, []*os.File{controlHost, pidfdsHost}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(control).Encode(wire.StartRequest{ID: id, OnExit: &e.onExit}); err != nil {
		t.Fatal(err)
	}
	var pid int
	poll(t, func() bool { var err error; pid, err = readPid(filepath.Join(e.dir, "hanging")); return err == nil })
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	_ = host.Process.Kill()
	_ = host.Wait()
	poll(t, func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		return n == 1 && err == nil
	})
}

// poll waits for a condition that another process causes.
func poll(t *testing.T, happened func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(10 * time.Second); !happened(); <-ticker.C {
		if time.Now().After(end) {
			t.Fatal("the condition did not become true")
		}
	}
}
