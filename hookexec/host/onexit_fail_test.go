package host

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// within runs StartOnExit in this process, on a thread that ends afterwards.
func (e *ended) within(pidfds *os.File, announce func(int) error) (int, error) {
	e.t.Helper()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	defer null.Close()
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = null, null // the created process writes to them
	defer func() { os.Stdout, os.Stderr = stdout, stderr }()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil { // so that the test can wait for the process
		e.t.Fatal(err)
	}
	e.onExit.Shim = os.Getppid()
	type result struct {
		pid int
		err error
	}
	done := make(chan result)
	go func() {
		pid, err := StartOnExit(wire.StartRequest{ID: id, Args: []string{"its"}, OnExit: &e.onExit}, pidfds, announce)
		done <- result{pid, err}
	}()
	got := <-done
	return got.pid, got.err
}

// TestStartOnExitThatIsNotKnown: the process is not started if the shim cannot learn of it. No descriptor is left in this
// process, and no thread in another mount namespace.
func TestStartOnExitThatIsNotKnown(t *testing.T) {
	for name, test := range map[string]struct {
		deaf     bool // the socket for the pidfd has no peer
		announce error
		says     string
	}{
		"without its pidfd":       {true, nil, "send the pidfd of onExit's process"},
		"without an announcement": {false, errors.ErrUnsupported, "announce onExit's process: unsupported operation"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnded(t)
			own, other := sockets(t)
			if test.deaf {
				_ = other.Close()
			}
			before := descriptors(t)
			pid, err := e.within(own, func(int) error { return test.announce })
			e.write("started", "") // makes the created process exit
			made, readErr := readPid(filepath.Join(e.onExit.Dir, "pid"))
			if readErr != nil {
				t.Fatal(readErr)
			}
			if _, err := unix.Wait4(made, nil, 0, nil); err != nil {
				t.Errorf("wait for the process: %v", err)
			}
			if pid != 0 || err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %d, %v", pid, err)
			}
			if calls := e.calls(); strings.Contains(calls, "start ") || !strings.HasPrefix(calls, "create ") {
				t.Errorf("the runtime's calls are %q", calls)
			}
			if after := descriptors(t); !slices.Equal(after, before) {
				t.Errorf("descriptors are %q, before %q", after, before)
			}
			poll(t, func() bool { return len(foreignThreads(t)) == 0 })
		})
	}
}

// foreignThreads returns the mount namespaces of this process's threads that differ from its own.
func foreignThreads(t *testing.T) []string {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var foreign []string
	for _, task := range tasks {
		if link, err := os.Readlink(task); err == nil && link != own {
			foreign = append(foreign, link)
		}
	}
	return foreign
}

// TestShimThatGoesMeanwhile: the shim dies, so the host cannot report the process that it creates. The host then starts no
// onExit, and fails if a handler has begun.
func TestShimThatGoesMeanwhile(t *testing.T) {
	run := func(request wire.StartRequest) (status int, output string) {
		t.Helper()
		control, controlHost := sockets(t)
		_, pidfdsHost := sockets(t)
		if err := json.NewEncoder(control).Encode(request); err != nil {
			t.Fatal(err)
		}
		_ = control.Close() // the host can still read the request
		host := exec.Command("/proc/self/exe", wire.CommandStart)
		host.Env, host.ExtraFiles = []string{asHost + "=1", "GORACE=atexit_sleep_ms=0"}, []*os.File{controlHost, pidfdsHost}
		text, err := host.Output()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return host.ProcessState.ExitCode(), string(text)
	}
	t.Run("an onExit", func(t *testing.T) {
		e := newEnded(t)
		ended := make(chan struct{})
		go func() { // the created process holds the host's stdout open
			defer close(ended)
			poll(t, func() bool { _, err := os.Stat(filepath.Join(e.onExit.Dir, "pid")); return err == nil })
			e.write("started", "")
		}()
		status, _ := run(wire.StartRequest{ID: id, Args: []string{"its"}, OnExit: &e.onExit})
		<-ended
		if calls := e.calls(); status != 1 || strings.Contains(calls, "start ") {
			t.Errorf("exit status %d; the runtime's calls are %q", status, calls)
		}
	})
	t.Run("a handler", func(t *testing.T) {
		b := newBox(t, smallSpec())
		b.request.Args = []string{"/bin/echo", "begun"}
		if status, output := run(b.request); status != 1 || output != "begun\n" {
			t.Errorf("exit status %d, output %q", status, output)
		}
	})
}

// TestStartLeaksNothing: no descriptor is left in the host, whether or not the handler starts.
func TestStartLeaksNothing(t *testing.T) {
	b := newBox(t, smallSpec())
	own, _ := sockets(t)
	b.request.Args = []string{filepath.Join(t.TempDir(), "program")}
	_, _ = Start(b.request, own) // libcontainer keeps a descriptor of the cgroups' mount open
	before := descriptors(t)
	if pid, err := Start(b.request, own); err == nil {
		t.Errorf("a program that does not exist runs as %d", pid)
	}
	if after := descriptors(t); !slices.Equal(after, before) {
		t.Errorf("descriptors are %q, before %q", after, before)
	}
	b.request.Args = []string{"/bin/true"}
	pid, err := Start(b.request, own)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		t.Error(err)
	}
	if after := descriptors(t); !slices.Equal(after, before) {
		t.Errorf("descriptors are %q, before %q", after, before)
	}
}
