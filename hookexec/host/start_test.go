package host

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// needsRoot skips the test without root: a handler joins cgroups and namespaces.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it joins cgroups and namespaces, which only root may")
	}
}

// box is a container with only a UTS namespace and a process.
type box struct {
	t       *testing.T
	init    *exec.Cmd
	request wire.StartRequest
}

func smallSpec() *specs.Spec {
	return &specs.Spec{
		Root:    &specs.Root{Path: "/"},
		Process: &specs.Process{Cwd: "/", Env: []string{"A=own"}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UTSNamespace}}},
	}
}

// newBox prepares a container with that spec for handlers.
func newBox(t *testing.T, spec *specs.Spec) *box {
	t.Helper()
	needsRoot(t)
	init := exec.Command("sleep", "1000")
	init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
	if err := init.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = init.Process.Kill(); _ = init.Wait() })
	bundle := t.TempDir()
	if err := writeJSON(filepath.Join(bundle, "config.json"), spec); err != nil {
		t.Fatal(err)
	}
	t.Chdir(bundle) // Prepare does too; this restores it afterwards
	root := filepath.Join(bundle, "lifecycle")
	prepared := wire.PrepareRequest{Root: root, ID: id, Bundle: bundle}
	if err := Prepare(prepared, func() (wire.Init, error) { return wire.Init{Pid: init.Process.Pid}, nil }); err != nil {
		t.Fatal(err)
	}
	return &box{t: t, init: init, request: wire.StartRequest{Root: root, ID: id, Env: []string{"B=handler"}}}
}

func (b *box) path(name string) string { return filepath.Join(b.request.Root, id, name) }

// started is the result of a run of the host.
type started struct {
	announced int // a pid
	response  wire.StartResponse
	status    int // the host's
	output    string
	pidfds    int // number of pidfds that were received
	handler   unix.WaitStatus
}

// runHost runs the host like the shim does, with the given input, until the handler has exited
// too. If the host failed, failed ends what it may have left.
func runHost(t *testing.T, request any, failed ...func()) started {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	control, controlHost := sockets(t)
	pidfds, pidfdsHost := sockets(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	host := exec.Command("/proc/self/exe", wire.CommandStart)
	host.Env = []string{asHost + "=1", "GORACE=atexit_sleep_ms=0"}
	host.Stdout, host.Stderr, host.ExtraFiles = writer, writer, []*os.File{controlHost, pidfdsHost}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	closeFiles([]*os.File{controlHost, pidfdsHost, writer})
	if text, ok := request.(string); ok {
		_, err = io.WriteString(control, text)
	} else {
		err = json.NewEncoder(control).Encode(request)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Shutdown(int(control.Fd()), unix.SHUT_WR)
	_ = host.Wait()
	result := started{status: host.ProcessState.ExitCode()}
	decoder := json.NewDecoder(control)
	err = decoder.Decode(&result.response)
	if result.response.Announced {
		result.announced, result.response = result.response.Pid, wire.StartResponse{}
		err = decoder.Decode(&result.response)
	}
	if err != nil {
		t.Errorf("read the host's answer: %v", err)
	}
	if rest, err := io.ReadAll(io.MultiReader(decoder.Buffered(), control)); err != nil || strings.TrimSpace(string(rest)) != "" { // no other process may hold it
		t.Errorf("the host also sent %q, %v", rest, err)
	}
	result.pidfds = receive(pidfds)
	if result.response.Error != "" {
		for _, end := range failed {
			end()
		}
	}
	if pid := result.response.Pid; pid > 0 {
		if _, err := unix.Wait4(pid, &result.handler, 0, nil); err != nil {
			t.Errorf("wait for the handler: %v", err)
		}
	}
	output, err := io.ReadAll(reader)
	if err != nil {
		t.Error(err)
	}
	_ = reader.Close()
	result.output = string(output)
	return result
}

func sockets(t *testing.T) (own, other *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	own, other = os.NewFile(uintptr(fds[0]), "own"), os.NewFile(uintptr(fds[1]), "other")
	t.Cleanup(func() { closeFiles([]*os.File{own, other}) })
	return own, other
}

// receive returns the number of descriptors that can be received from a socket.
func receive(socket *os.File) int {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), make([]byte, 64), oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0
	}
	count := 0
	messages, _ := unix.ParseSocketControlMessage(oob[:n])
	for _, message := range messages {
		fds, _ := unix.ParseUnixRights(&message)
		for _, fd := range fds {
			_ = unix.Close(fd)
			count++
		}
	}
	return count
}

// TestStart: the handler runs in the container, with the container's identity and limits and
// nothing more. Its pidfd is sent, and it outlives the host.
func TestStart(t *testing.T) {
	spec := smallSpec()
	spec.Process.User = specs.User{UID: 65534, GID: 65533, AdditionalGids: []uint32{7}}
	b := newBox(t, spec)
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/uts", b.init.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	b.request.Args = []string{"/bin/sh", "-c", `echo $A $B; readlink /proc/self/ns/uts; id -u; id -G; grep -E 'CapEff|Seccomp:' /proc/self/status; echo error >&2; exec ls /proc/self/fd >&2`}
	got := runHost(t, b.request)
	want := "own handler\n" + name + "\n65534\n65533 7\nCapEff:\t0000000000000000\nSeccomp:\t0\nerror\n0\n1\n2\n3\n" // 3 is the descriptor of the listing
	if got.output != want || got.response.Error != "" || got.status != 0 || got.pidfds != 1 || got.handler.ExitStatus() != 0 {
		t.Errorf("got %+v, want the output %q", got, want)
	}
	b.request.Args = []string{"/bin/sh", "-c", "exit 7"}
	if got := runHost(t, b.request); got.handler.ExitStatus() != 7 || got.output != "" || got.status != 0 {
		t.Errorf("got %+v", got)
	}
}

// newCgroup creates a cgroup below parent, which the caller removes. Its name does not contain this process's pid: tests in
// pid namespaces, such as those of mutants, have equal pids.
func newCgroup(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "hookexec-test-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestStartInTheCgroups: the handler joins the cgroups of the container's process, wherever that
// was moved.
func TestStartInTheCgroups(t *testing.T) {
	b := newBox(t, smallSpec())
	want := ""
	for _, path := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err != nil {
			continue
		}
		group := newCgroup(t, path)
		t.Cleanup(func() { // the init has been killed before
			_ = b.init.Process.Kill()
			_ = b.init.Wait()
			if err := os.Remove(group); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(b.init.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.init.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if want = string(own); !strings.Contains(want, "hookexec-test-") {
		t.Fatalf("the container is in %q", want)
	}
	bundle := filepath.Dir(b.request.Root)
	for name, affinity := range map[string]*specs.CPUAffinity{"by itself": nil, "from outside": {Initial: "0"}} {
		t.Run(name, func(t *testing.T) {
			spec := smallSpec()
			spec.Process.ExecCPUAffinity = affinity
			if err := writeJSON(filepath.Join(bundle, "config.json"), spec); err != nil {
				t.Fatal(err)
			}
			t.Chdir(bundle)
			init := wire.Init{Pid: b.init.Process.Pid}
			if err := Prepare(wire.PrepareRequest{Root: b.request.Root, ID: id, Bundle: bundle}, func() (wire.Init, error) { return init, nil }); err != nil {
				t.Fatal(err)
			}
			b.request.Args = []string{"/bin/cat", "/proc/self/cgroup"}
			if got := runHost(t, b.request); got.output != want || got.response.Error != "" {
				t.Errorf("got %+v, want the output %q", got, want)
			}
		})
	}
}

// TestStartWithAFilter: the handler has the container's seccomp filter, and does not inherit the
// file with its program.
func TestStartWithAFilter(t *testing.T) {
	spec := smallSpec()
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
	}
	b := newBox(t, spec)
	b.request.Args = []string{"/bin/sh", "-c", `grep Seccomp: /proc/self/status; mkdir /tmp/hookexec-test 2>/dev/null || echo refused; exec ls /proc/self/fd`}
	if got := runHost(t, b.request); got.output != "Seccomp:\t2\nrefused\n0\n1\n2\n3\n" || got.response.Error != "" {
		t.Errorf("got %+v", got)
	}
	if err := os.Remove(b.path(filterFile)); err != nil {
		t.Fatal(err)
	}
	if got := runHost(t, b.request); !strings.Contains(got.response.Error, filterFile) || got.status != 1 || got.output != "" {
		t.Errorf("without its filter: got %+v", got)
	}
	if err := os.WriteFile(b.path(filterFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runHost(t, b.request); !strings.Contains(got.response.Error, "the seccomp program is empty") || got.output != "" {
		t.Errorf("with an empty filter: got %+v", got)
	}
}

// TestStartFails: the host's answer has the error, and no process is left. The error is not in the
// handler's output.
func TestStartFails(t *testing.T) {
	b := newBox(t, smallSpec())
	nowhere := filepath.Join(t.TempDir(), "program")
	b.request.Args = []string{nowhere}
	changed := func(change func(*wire.StartRequest)) wire.StartRequest {
		request := b.request
		change(&request)
		return request
	}
	for name, test := range map[string]struct {
		request any
		says    string
	}{
		"no such program":   {b.request, nowhere},
		"no such container": {changed(func(r *wire.StartRequest) { r.ID = "c2" }), "read the container's process"},
		"no request":        {"", "EOF"},
		"a broken request":  {"nonsense", "invalid character"},
		"an onExit without a shim": {changed(func(r *wire.StartRequest) {
			r.OnExit = &wire.OnExit{Shim: 1, Dir: filepath.Join(t.TempDir(), "onExit")}
		}), "the shim is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			got := runHost(t, test.request)
			if !strings.Contains(got.response.Error, test.says) || got.response.Pid != 0 || got.status != 1 || got.output != "" {
				t.Errorf("got %+v, want %q", got, test.says)
			}
		})
	}
}

// TestStartOfAnOddState: libcontainer panics on it, and the host answers with an error.
func TestStartOfAnOddState(t *testing.T) {
	b := newBox(t, smallSpec())
	if err := os.WriteFile(b.path(stateFile), []byte(`{"config": {"cgroups": null}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runHost(t, b.request); !strings.Contains(got.response.Error, "internal error") || got.status != 1 || got.output != "" {
		t.Errorf("got %+v", got)
	}
}

// TestReady: a handler starts only if the container's init is the process that was prepared for,
// and its cgroup is not frozen.
func TestReady(t *testing.T) {
	b := newBox(t, smallSpec())
	b.request.Args = []string{"/bin/true"}
	want := func(says string) {
		t.Helper()
		_, process, err := load(b.request)
		switch {
		case err == nil && says == "":
			closeFiles(process.ExtraFiles)
		case err == nil || says == "" || !strings.Contains(err.Error(), says):
			t.Errorf("got %v, want %q", err, says)
		}
	}
	want("")
	if _, err := os.Stat("/sys/fs/cgroup/freezer/cgroup.procs"); err == nil {
		b.inFrozenCgroup(func() { want("the container is paused") })
		want("")
	}
	edit := func(change func(state map[string]any)) {
		t.Helper()
		data, err := os.ReadFile(b.path(stateFile))
		if err != nil {
			t.Fatal(err)
		}
		state := map[string]any{}
		if err := json.Unmarshal(data, &state); err != nil {
			t.Fatal(err)
		}
		change(state)
		if err := writeJSON(b.path(stateFile), state); err != nil {
			t.Fatal(err)
		}
	}
	paused := t.TempDir()
	if err := os.WriteFile(filepath.Join(paused, "freezer.state"), []byte("FROZEN"), 0o600); err != nil {
		t.Fatal(err)
	}
	edit(func(state map[string]any) { state["cgroup_paths"] = map[string]string{"freezer": paused} })
	cgroups.TestMode = true // accept any file as a cgroup's
	want("the container is paused")
	cgroups.TestMode = false
	edit(func(state map[string]any) { state["cgroup_paths"] = map[string]string{} })
	edit(func(state map[string]any) { state["init_process_start"] = 1 })
	want("the container's process is gone") // the pid is reused
	if err := os.WriteFile(b.path(stateFile), []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	want("load the container's state")
	for text, says := range map[string]string{
		"[": "decode the container's process", "{}": "the container's process is missing",
		`{"Process": {"rlimits": [{"type": "RLIMIT_X"}]}}`:        `unknown type "RLIMIT_X"`,
		`{"Process": {"execCPUAffinity": {"initial": "nobody"}}}`: "CPUAffinity",
	} {
		if err := os.WriteFile(b.path(handlerFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		want(says)
	}
}

// inFrozenCgroup calls do while the container's freezer cgroup is a frozen one.
func (b *box) inFrozenCgroup(do func()) {
	b.t.Helper()
	group := newCgroup(b.t, "/sys/fs/cgroup/freezer")
	defer os.Remove(group)
	own, err := readExtraState(b.request)
	if err != nil {
		b.t.Fatal(err)
	}
	before := own.Cgroups["freezer"]
	own.Cgroups["freezer"] = group
	if err := writeJSON(b.path(handlerFile), own); err != nil {
		b.t.Fatal(err)
	}
	state := filepath.Join(group, "freezer.state")
	if err := os.WriteFile(state, []byte("FROZEN"), 0); err != nil {
		b.t.Fatal(err)
	}
	do()
	if err := os.WriteFile(state, []byte("THAWED"), 0); err != nil {
		b.t.Fatal(err)
	}
	own.Cgroups["freezer"] = before
	if err := writeJSON(b.path(handlerFile), own); err != nil {
		b.t.Fatal(err)
	}
}

// TestLoadLeaksNothing: no error leaves a descriptor open.
func TestLoadLeaksNothing(t *testing.T) {
	b := newBox(t, smallSpec())
	own, err := readExtraState(b.request)
	if err != nil {
		t.Fatal(err)
	}
	own.Filter = true // but the file does not exist
	if err := writeJSON(b.path(handlerFile), own); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	if _, _, err := load(b.request); err == nil {
		t.Error("it loaded a filter that does not exist")
	}
	if after := descriptors(t); !slices.Equal(after, before) {
		t.Errorf("descriptors are %q, before %q", after, before)
	}
}

// descriptors returns this process's descriptors, except those of Go's poller and of the listing.
func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var links []string
	for _, entry := range entries {
		link, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err == nil && !strings.HasPrefix(link, "anon_inode:") {
			links = append(links, link)
		}
	}
	return links
}

// TestNewProcess: it is the container's own process with the handler's command.
func TestNewProcess(t *testing.T) {
	own := &specs.Process{
		Args: []string{"own"}, Env: []string{"A=own"}, Cwd: "/w", SelinuxLabel: "l", NoNewPrivileges: true, ApparmorProfile: "p",
		User:         specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3, 4}},
		Scheduler:    &specs.Scheduler{Nice: 5},
		IOPriority:   &specs.LinuxIOPriority{Priority: 6},
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 7, Hard: 8}, {Type: "RLIMIT_CORE", Hard: 9}},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"B"}, Effective: []string{"E"}, Inheritable: []string{"I"}, Permitted: []string{"P"}, Ambient: []string{"A"}},
	}
	got, err := newProcess(wire.StartRequest{Args: []string{"handler"}, Env: []string{"B=handler"}}, own)
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := &libcontainer.Process{
		Args: []string{"handler"}, Env: []string{"A=own", "B=handler"}, Cwd: "/w", Label: "l", NoNewPrivileges: &yes, AppArmorProfile: "p",
		UID: 1, GID: 2, AdditionalGroups: []int{3, 4}, Scheduler: own.Scheduler, IOPriority: own.IOPriority,
		Rlimits:      []configs.Rlimit{{Type: unix.RLIMIT_NOFILE, Soft: 7, Hard: 8}, {Type: unix.RLIMIT_CORE, Hard: 9}},
		Capabilities: &configs.Capabilities{Bounding: []string{"B"}, Effective: []string{"E"}, Inheritable: []string{"I"}, Permitted: []string{"P"}, Ambient: []string{"A"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	own.Capabilities = nil
	if got, err := newProcess(wire.StartRequest{}, own); err != nil || !reflect.DeepEqual(got.Capabilities, &configs.Capabilities{}) {
		t.Errorf("without capabilities: got %+v, %v", got.Capabilities, err)
	}
}
