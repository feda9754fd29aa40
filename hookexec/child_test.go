package hookexec

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// TestChildIsKnownByItsPidfd: the exit of an earlier process with the same pid is ignored.
func TestChildIsKnownByItsPidfd(t *testing.T) {
	cmd, own := sleeping(t)
	exits := make(chan runc.Exit)
	child := &child{process: own, cmd: cmd, exits: exits, monitor: &testMonitor{}}
	type ended struct {
		status int
		err    error
	}
	done := make(chan ended, 1)
	go func() {
		status, err := child.wait(t.Context())
		done <- ended{status, err}
	}()
	report := func(pid, status int) {
		t.Helper()
		select {
		case exits <- runc.Exit{Pid: pid, Status: status}:
		case got := <-done:
			t.Fatalf("wait returned: %+v", got)
		}
	}
	report(own.pid, 9)
	report(1<<22, 9) // above every pid
	_ = cmd.Process.Kill()
	for {
		if _, err := unix.Wait4(own.pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	report(own.pid, 3)
	if got := <-done; got.status != 3 || got.err != nil {
		t.Errorf("got %+v", got)
	}
	child.release()
}

// TestChildThatCannotBeKilled: wait returns the error, without waiting.
func TestChildThatCannotBeKilled(t *testing.T) {
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	child := &child{process: &process{pid: 1 << 22, pidfd: int(file.Fd())}, exits: make(chan runc.Exit), monitor: &testMonitor{}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan error, 1)
	go func() {
		_, err := child.wait(ctx)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, unix.EBADF) {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("wait did not return")
	}
}

// leavingMonitor reports that a subscriber has unsubscribed.
type leavingMonitor struct {
	testMonitor

	left chan struct{}
}

func (m *leavingMonitor) Unsubscribe(chan runc.Exit) { close(m.left) }

var _ Monitor = (*leavingMonitor)(nil)

// TestHostThatEndsEarlyIsUnsubscribed: even before its stdin is closed, because the reaper blocks on subscribers that do not
// receive exits.
func TestHostThatEndsEarlyIsUnsubscribed(t *testing.T) {
	host, _ := scriptHost(t, "head -c 1 > /dev/null; exit 1") // who sends it more waits for what is to be sent
	monitor := &leavingMonitor{left: make(chan struct{})}
	host.monitor = monitor
	preparation := host.Prepare(t.Context(), wire.PrepareRequest{})
	defer preparation.Cancel()
	select {
	case <-monitor.left:
	case <-time.After(10 * time.Second):
		t.Fatal("it was not unsubscribed")
	}
}
