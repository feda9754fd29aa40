package host

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

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
