package hookexec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// testMonitor reaps the processes that it started, like the shim's reaper.
type testMonitor struct {
	unsubscribed int
	// report delays the reports of exits until it is closed. If nil, there is no delay.
	report chan struct{}
}

func (m *testMonitor) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exits := make(chan runc.Exit, 2)
	go func() {
		exits <- runc.Exit{Pid: -1} // of another child
		var status unix.WaitStatus
		for {
			_, err := unix.Wait4(cmd.Process.Pid, &status, 0, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			code := status.ExitStatus()
			if status.Signaled() {
				code = 128 + int(status.Signal())
			}
			if m.report != nil {
				<-m.report
			}
			exits <- runc.Exit{Pid: cmd.Process.Pid, Status: code}
			return
		}
	}()
	return exits, nil
}

func (m *testMonitor) Unsubscribe(chan runc.Exit) { m.unsubscribed++ }

// scriptHost is a handler host that is a shell script.
func scriptHost(t *testing.T, script string) (*Host, *testMonitor) {
	t.Helper()
	path := filepath.Join(t.TempDir(), HostBinary)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	monitor := &testMonitor{}
	return &Host{file: file, monitor: monitor}, monitor
}

// openFDs counts this process's descriptors.
func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// nothingIsLeft checks that a run of the host left no descriptor, process or subscription.
func nothingIsLeft(t *testing.T, monitor *testMonitor, fds int) {
	t.Helper()
	if monitor.unsubscribed != 1 {
		t.Errorf("unsubscribed %d times", monitor.unsubscribed)
	}
	if got := openFDs(t); got != fds {
		t.Errorf("%d descriptors, %d before", got, fds)
	}
}

func TestFindHost(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(filepath.Dir(self), HostBinary)
	install := func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(path) })
	}
	onPath := filepath.Join(t.TempDir(), HostBinary)

	t.Setenv("PATH", t.TempDir())
	_, err = OpenHost(&testMonitor{})
	if err == nil {
		t.Fatal("found a host that does not exist")
	}
	for _, word := range []string{HostBinary, self, "PATH", "install it"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not contain %q", err, word)
		}
	}

	install(t, onPath)
	t.Setenv("PATH", filepath.Dir(onPath))
	if got, err := findHost(); err != nil || got != onPath {
		t.Errorf("got %q, %v", got, err)
	}

	install(t, beside) // preferred, because it is of the same installation
	if got, err := findHost(); err != nil || got != beside {
		t.Errorf("got %q, %v", got, err)
	}
	monitor := &testMonitor{}
	host, err := OpenHost(monitor)
	if err != nil {
		t.Fatal(err)
	}
	if host.monitor != monitor {
		t.Errorf("its exits are reported by %v", host.monitor)
	}
	if err := host.Close(); err != nil {
		t.Error(err)
	}
	if err := host.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err = OpenHost(&testMonitor{})
	if restored := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); restored != nil {
		t.Fatal(restored)
	}
	if !errors.Is(err, unix.EMFILE) || !strings.Contains(err.Error(), "open the handler host") {
		t.Errorf("without descriptors: %v", err)
	}
}

// TestHostStaysTheOneThatWasOpened: an upgrade replaces the file while the shim runs.
func TestHostStaysTheOneThatWasOpened(t *testing.T) {
	host, _ := scriptHost(t, "exit 0")
	path := host.file.Name()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho the new build >&2; exit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	// A script cannot be used here, because its interpreter opens it again.
	opened, err := os.ReadFile(host.command(wire.CommandPrepare).Path)
	if err != nil || string(opened) != "#!/bin/sh\nexit 0\n" {
		t.Errorf("got %q, %v", opened, err)
	}
}

func TestHostIsGivenNothingOfTheShims(t *testing.T) {
	t.Setenv("SECRET", "x")
	host, _ := scriptHost(t, "")
	cmd := host.command(wire.CommandStart)
	if want := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), host.file.Fd()); cmd.Path != want {
		t.Errorf("the path is %q, want %q", cmd.Path, want)
	}
	if !slices.Equal(cmd.Args, []string{HostBinary, wire.CommandStart}) || cmd.Dir != "/" || cmd.Stdin != nil {
		t.Errorf("got %+v", cmd)
	}
	if cmd.Env == nil || slices.Contains(cmd.Env, "SECRET=x") {
		t.Errorf("the environment is %q", cmd.Env)
	}
}

// prepare calls Prepare and Finish.
func prepare(ctx context.Context, host *Host, request wire.PrepareRequest, init wire.Init) error {
	preparation := host.Prepare(ctx, request)
	defer preparation.Cancel()
	return preparation.Finish(init)
}

func TestPrepareHandsTheRequestOver(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	host, monitor := scriptHost(t, "[ $# = 1 ] && [ $1 = prepare ] && cat > "+seen)
	request := wire.PrepareRequest{Root: "/r", ID: "c1", Bundle: strings.Repeat("/long", 50_000), NoNewKeyring: true}
	init := wire.Init{Pid: 7}
	before := openFDs(t)
	if err := prepare(t.Context(), host, request, init); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(seen)
	if err != nil {
		t.Fatal(err)
	}
	data := json.NewDecoder(file)
	var got wire.PrepareRequest
	if err := data.Decode(&got); err != nil || got != request {
		t.Errorf("got %.100v, %v", got, err)
	}
	var gotInit wire.Init
	if err := data.Decode(&gotInit); err != nil || gotInit != init {
		t.Errorf("got %v, %v", gotInit, err)
	}
	_ = file.Close()
	nothingIsLeft(t, monitor, before)
}

func TestPrepareSaysWhyItFailed(t *testing.T) {
	for name, test := range map[string]struct{ script, says string }{
		"with the host's error":       {"echo no such bundle >&2; exit 3", "lifecycle-hookexec prepare: exit status 3: no such bundle"},
		"without an error text":       {"exit 1", "lifecycle-hookexec prepare: exit status 1"},
		"without reading its request": {"exec 0<&-; echo refused >&2; exit 1", "refused"},
		"by a signal":                 {"kill -9 $$", "exit status 137"},
	} {
		t.Run(name, func(t *testing.T) {
			host, monitor := scriptHost(t, test.script)
			before := openFDs(t)
			err := prepare(t.Context(), host, wire.PrepareRequest{Bundle: strings.Repeat("/long", 50_000)}, wire.Init{})
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v", err)
			}
			nothingIsLeft(t, monitor, before)
		})
	}
	t.Run("a host that cannot be run", func(t *testing.T) {
		host, _ := scriptHost(t, "")
		if err := host.file.Chmod(0o600); err != nil {
			t.Fatal(err)
		}
		if err := prepare(t.Context(), host, wire.PrepareRequest{}, wire.Init{}); !errors.Is(err, unix.EACCES) {
			t.Errorf("got %v", err)
		}
	})
}

// TestPrepareIsCancelled if the container could not be created.
func TestPrepareIsCancelled(t *testing.T) {
	host, monitor := scriptHost(t, "cat")
	before := openFDs(t)
	preparation := host.Prepare(t.Context(), wire.PrepareRequest{})
	preparation.Cancel()
	if !errors.Is(preparation.err, errNotCreated) {
		t.Errorf("got %v", preparation.err)
	}
	nothingIsLeft(t, monitor, before)
}

// TestPrepareIsEndedWithItsContext: the host and its children are killed.
func TestPrepareIsEndedWithItsContext(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	host, monitor := scriptHost(t, "sleep 1000 & echo $! > "+ready+".new; mv "+ready+".new "+ready+"; wait")
	ctx, cancel := context.WithCancelCause(t.Context())
	gaveUp := errors.New("gave up")
	prepared := make(chan error, 1)
	go func() { prepared <- prepare(ctx, host, wire.PrepareRequest{}, wire.Init{}) }()
	var child []byte
	waitFor(t, func() bool {
		var err error
		child, err = os.ReadFile(ready)
		return err == nil
	})
	cancel(gaveUp)
	select {
	case err := <-prepared:
		if !errors.Is(err, gaveUp) {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it did not end")
	}
	waitFor(t, func() bool { // the test is not its parent
		stat, err := os.ReadFile("/proc/" + string(bytes.TrimSpace(child)) + "/stat")
		return err != nil || bytes.Contains(stat, []byte(") Z "))
	})
	if monitor.unsubscribed != 1 {
		t.Errorf("unsubscribed %d times", monitor.unsubscribed)
	}
}

func TestChannelEndsAreInherited(t *testing.T) {
	channel, files, err := newChannel()
	if err != nil {
		t.Fatal(err)
	}
	defer channel.close()
	defer closeAll(files...)
	go channel.send(wire.StartRequest{ID: "c1"})
	data, err := io.ReadAll(files[wire.ControlFD-3])
	if err != nil || !strings.Contains(string(data), `"c1"`) {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := channel.handler(0); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("closing without data: %v", err)
	}
}

// goneMonitor is a reaper that stops before it has reported an exit.
type goneMonitor struct{ testMonitor }

func (m *goneMonitor) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for { // the process must not outlive the test
		if _, err := unix.Wait4(cmd.Process.Pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = cmd.Process.Release()
	exits := make(chan runc.Exit)
	close(exits)
	return exits, nil
}

// TestHostWithoutAReaper: the call fails, because it would never learn of the host's exit.
func TestHostWithoutAReaper(t *testing.T) {
	host, _ := scriptHost(t, "exit 0")
	host.monitor = &goneMonitor{}
	if err := host.Clean(t.Context(), wire.OnExit{}); err == nil || !strings.Contains(err.Error(), "reaper has stopped") {
		t.Errorf("got %v", err)
	}
}

// TestCallReleasesItsContext, and does not run longer than it may.
func TestCallReleasesItsContext(t *testing.T) {
	host, _ := scriptHost(t, "exit 0")
	ctx := &holdingContext{Context: t.Context()}
	if err := host.call(ctx, time.Minute, wire.CommandClean, 1); err != nil {
		t.Error(err)
	}
	if held := ctx.held.Load(); held != 0 {
		t.Errorf("its context holds %d", held)
	}
	slow, _ := scriptHost(t, "exec sleep 1000")
	if err := slow.call(ctx, 50*time.Millisecond, wire.CommandClean, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := host.call(ctx, time.Minute, wire.CommandClean, func() {}); err == nil {
		t.Error("a function is sent as a request")
	}
}
