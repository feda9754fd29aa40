package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// hostMonitor reaps what it starts, as the shim's reaper does.
type hostMonitor struct{}

func (hostMonitor) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exits := make(chan runc.Exit, 1)
	go func() {
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(cmd.Process.Pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		code := status.ExitStatus()
		if status.Signaled() {
			code = 128 + int(status.Signal())
		}
		exits <- runc.Exit{Pid: cmd.Process.Pid, Status: code}
	}()
	return exits, nil
}

func (hostMonitor) Unsubscribe(chan runc.Exit) {}

// fakeHost is a handler host that is a shell script. Each start writes its request to
// DIR/start-N. It waits for room in the socket of the pidfd, where a parked handler waits, and
// then fails with the words "start N". If there is a file leave, the start leaves a process behind, whose pid it writes to left.
type fakeHost struct {
	t   *testing.T
	dir string
	*hookexec.Host
}

const hostScript = `#!/bin/sh
cd DIR || exit 1
case $1 in
prepare)
	cat > prepare
	test ! -e refused || { cat refused >&2; exit 1; }
	;;
start)
	n=$(( $(ls -d start-* 2>/dev/null | wc -l) + 1 ))
	cat <&3 > request
	mv request start-$n
	echo "output of $n"
	test ! -e leave || { sleep 1000 3>&- 4>&- & echo $! > left; }
	echo pid >&4
	echo "{\"Error\":\"start $n\"}" >&3
	exit 1
	;;
clean)
	cat > clean
	test ! -e refused || { cat refused >&2; exit 1; }
	;;
esac
`

func newFakeHost(t *testing.T) *fakeHost {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, hookexec.HostBinary)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(hostScript, "DIR", dir)), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	host, err := hookexec.OpenHost(hostMonitor{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	return &fakeHost{t: t, dir: dir, Host: host}
}

// refuse makes preparations and cleaning fail.
func (h *fakeHost) refuse(words string) {
	if err := os.WriteFile(filepath.Join(h.dir, "refused"), []byte(words), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *fakeHost) file(name string) string {
	data, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
	return string(data)
}

// request that the nth start was given.
func (h *fakeHost) request(n int) wire.StartRequest {
	h.t.Helper()
	var request wire.StartRequest
	if err := json.Unmarshal([]byte(h.file(fmt.Sprintf("start-%d", n))), &request); err != nil {
		h.t.Fatalf("start %d: %v", n, err)
	}
	return request
}

// started counts the starts that have read their request.
func (h *fakeHost) started() int {
	found, _ := filepath.Glob(filepath.Join(h.dir, "start-*"))
	return len(found)
}

// await polls for something that a process does.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for timeout := time.After(20 * time.Second); !done(); {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

func execHandler(words ...string) *lifecyclev1.Handler {
	return &lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{Command: words}}
}

func sleepHandler() *lifecyclev1.Handler {
	return &lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{}}
}

// newTestRunner is the runner of a container whose init is this process, before prepare.
func newTestRunner(t *testing.T, host *fakeHost, block *lifecyclev1.Block) (*Runner, *shimtest.Task) {
	t.Helper()
	inner := shimtest.NewTask()
	r := New(Config{
		Task: inner, Host: host.Host, ID: "c1", Bundle: t.TempDir(), Block: block, OutputLimit: 100,
		Runtime: "true", CgroupsPath: "/c1",
	})
	before := openDescriptors(t)
	t.Cleanup(func() { // nothing is left to the next test, and nothing leaks (docs/spec.md#no-leak)
		r.Unpark()
		r.Undo()
		r.Close()
		await(t, "its descriptors are closed", func() bool { return openDescriptors(t) <= before })
	})
	return r, inner
}

func (r *Runner) mustPrepare(t *testing.T) {
	t.Helper()
	r.Begin(t.Context())
	if err := r.Prepare(os.Getpid(), nil); err != nil {
		t.Fatal(err)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	found, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}
