package hookexec

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestStuffedSocketHoldsItsWriter: a writer blocks until the socket is read, and its message
// arrives completely.
func TestStuffedSocketHoldsItsWriter(t *testing.T) {
	channel, files, err := newChannel()
	if err != nil {
		t.Fatal(err)
	}
	defer channel.close()
	defer closeAll(files...)
	writer := int(files[pidfdFile].Fd())
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)

	stuffing, err := stuff(files[pidfdFile])
	if err != nil || stuffing == 0 {
		t.Fatalf("%d bytes, %v", stuffing, err)
	}
	message, rights := []byte("setns"), unix.UnixRights(pidfd)
	if _, err := unix.SendmsgN(writer, message, rights, nil, unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("a stuffed socket takes more: %v", err)
	}
	sent := make(chan error, 1)
	go func() { sent <- unix.Sendmsg(writer, message, rights, nil, 0) }()
	if err := channel.unstuff(stuffing); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	handler, err := channel.handler(0)
	if err != nil {
		t.Fatal(err)
	}
	defer handler.close()
	if handler.pid != os.Getpid() {
		t.Errorf("pid %d, want %d", handler.pid, os.Getpid())
	}
}

// TestStuffErrors: a file that is not a socket, and a socket whose peer is closed.
func TestStuffErrors(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if n, err := stuff(null); n != 0 || !errors.Is(err, unix.ENOTSOCK) || !strings.Contains(err.Error(), "SO_SNDBUF") {
		t.Errorf("a file: %d, %v", n, err)
	}
	own, other, err := socketpair("x")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	_ = other.Close()
	if n, err := stuff(own); n != 0 || !errors.Is(err, unix.EPIPE) || !strings.Contains(err.Error(), "fill a socket") {
		t.Errorf("a socket whose peer is closed: %d, %v", n, err)
	}
	if err := (&channel{pidfds: own}).unstuff(1); err == nil || !strings.Contains(err.Error(), "empty a socket") {
		t.Errorf("read from: %v", err)
	}
}

// TestParkedHostThatFails: the handler is started again.
func TestParkedHostThatFails(t *testing.T) {
	runs := filepath.Join(t.TempDir(), "runs")
	host, monitor := scriptHost(t, "echo run >> "+runs+"; exit 1")
	before := openFDs(t)
	action := &Exec{Host: host, OutputLimit: 100, Progress: &Progress{}}
	ctx := &holdingContext{Context: t.Context()}
	parked, err := action.Park(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-parked.done
	nothingIsLeft(t, monitor, before)
	waitFor(t, func() bool { return ctx.held.Load() == 0 })
	action.Parked = parked
	for range 2 {
		if result := action.Attempt(t.Context()); result.Outcome != lifecycle.Failed || !strings.Contains(result.Err.Error(), "exited without an answer") {
			t.Errorf("got %+v", result)
		}
	}
	if data, err := os.ReadFile(runs); err != nil || string(data) != "run\nrun\nrun\n" {
		t.Errorf("got %q, %v: want one parked run and one of each attempt", data, err)
	}
}

// TestParkedHostThatHasJustEnded: resume notices that although the exit has not been reported
// yet.
func TestParkedHostThatHasJustEnded(t *testing.T) {
	for name, script := range map[string]string{
		"without an error text": "exit 1",
		"with its answer":       "cat <&3; echo '{\"Error\":\"no\"}' >&3; exit 1",
	} {
		t.Run(name, func(t *testing.T) {
			host, monitor := scriptHost(t, script)
			monitor.report = make(chan struct{})
			before := openFDs(t)
			parked, err := (&Exec{Host: host, OutputLimit: 100}).Park(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			ended := []unix.PollFd{{Fd: int32(parked.run.child.pidfd), Events: unix.POLLIN}}
			for n := 0; n == 0 || errors.Is(err, unix.EINTR); {
				n, err = unix.Poll(ended, -1)
			}
			decided, cancel := make(chan struct{}), parked.cancel
			parked.cancel = func(cause error) { cancel(cause); close(decided) }
			go func() {
				select {
				case <-decided:
				case <-parked.resumed:
				}
				close(monitor.report)
			}()
			if result, ok := parked.resume(t.Context(), &Progress{}); ok {
				t.Errorf("an exited command was resumed: %+v", result)
			}
			nothingIsLeft(t, monitor, before)
		})
	}
}

// TestParkedEndsWithItsContainer: so does the attempt that waits for it.
func TestParkedEndsWithItsContainer(t *testing.T) {
	host, monitor := scriptHost(t, "exec sleep 1000")
	before := openFDs(t)
	exited := make(chan struct{})
	parked, err := (&Exec{Host: host, OutputLimit: 100}).Park(t.Context(), exited)
	if err != nil {
		t.Fatal(err)
	}
	close(exited)
	<-parked.done
	nothingIsLeft(t, monitor, before)
	if _, ok := parked.resume(t.Context(), &Progress{}); ok {
		t.Error("a killed command was resumed")
	}
}
