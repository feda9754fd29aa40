package hookexec

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestMessagesThatAreNoHandler: wrong messages are refused, and their descriptors are closed.
func TestMessagesThatAreNoHandler(t *testing.T) {
	cmd, own := sleeping(t)
	wantNoHandler(t, "nothing", nil, "sent no pidfd")
	wantNoHandler(t, "two of them", []int{own.pidfd, own.pidfd}, "sent no pidfd")
	wantNoHandler(t, "a file", []int{0}, "the handler's process: ")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	wantNoHandler(t, "one that was reaped", []int{own.pidfd}, "has been reaped")
	own.close()
}

func wantNoHandler(t *testing.T, name string, rights []int, says string) {
	t.Helper()
	before := openFDs(t)
	channel, files, err := newChannel()
	if err != nil {
		t.Fatal(err)
	}
	var oob []byte
	if rights != nil {
		oob = unix.UnixRights(rights...)
	}
	if err := unix.Sendmsg(int(files[pidfdFile].Fd()), []byte("x"), oob, nil, 0); err != nil {
		t.Fatal(err)
	}
	if handler, err := channel.handler(0); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %+v, %v", name, handler, err)
	}
	channel.close()
	closeAll(files...)
	if after := openFDs(t); after != before {
		t.Errorf("%s: %d descriptors, %d before", name, after, before)
	}
}

// TestCancelledHandlerEndsWhatIsParked: Attempt kills the parked command if its context was
// cancelled.
func TestCancelledHandlerEndsWhatIsParked(t *testing.T) {
	host, monitor := scriptHost(t, "exec sleep 1000")
	before := openFDs(t)
	action := &Exec{Host: host, OutputLimit: 100, Progress: &Progress{}}
	parked, err := action.Park(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	action.Parked = parked
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrTimedOut)
	if result := action.Attempt(ctx); result.Outcome != lifecycle.Failed || !errors.Is(result.Err, ErrTimedOut) || result.ExitCode != -1 {
		t.Errorf("got %+v", result)
	}
	select {
	case <-parked.done:
	case <-time.After(10 * time.Second):
		t.Fatal("the parked command did not end")
	}
	nothingIsLeft(t, monitor, before)
}

// TestParkedIsEndedWithItsContext: the context of Park kills the command.
func TestParkedIsEndedWithItsContext(t *testing.T) {
	host, monitor := scriptHost(t, "exec sleep 1000")
	before, goroutines := openFDs(t), runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	parked, err := (&Exec{Host: host, OutputLimit: 100}).Park(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-parked.done
	nothingIsLeft(t, monitor, before)
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
}

// TestExecWithoutAHost: the attempt fails, and leaves nothing behind.
func TestExecWithoutAHost(t *testing.T) {
	host, _ := scriptHost(t, "")
	if err := host.file.Chmod(0o600); err != nil {
		t.Fatal(err)
	}
	before, goroutines := openFDs(t), runtime.NumGoroutine()
	action := &Exec{Host: host, OutputLimit: 100, Progress: &Progress{}}
	if result := action.Attempt(t.Context()); result.Outcome != lifecycle.Failed || !errors.Is(result.Err, unix.EACCES) || result.ExitCode != -1 {
		t.Errorf("got %+v", result)
	}
	if parked, err := action.Park(t.Context(), nil); !errors.Is(err, unix.EACCES) || parked != nil {
		t.Errorf("parked: %v", err)
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
	if got := openFDs(t); got != before {
		t.Errorf("%d descriptors, %d before", got, before)
	}
}

// TestExecWithoutDescriptors: if descriptors run out at any step, the attempt fails with that
// error, and leaves none open.
func TestExecWithoutDescriptors(t *testing.T) {
	host, _ := scriptHost(t, "exit 1")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	before, goroutines := openFDs(t), runtime.NumGoroutine()
	// Two sockets for each of two pairs, a copy of one, and two ends of a pipe.
	for spare := range 7 {
		lowered := limit
		lowered.Cur = numberAfter(t, spare)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
			t.Fatal(err)
		}
		action := &Exec{Host: host, OutputLimit: 100, Progress: &Progress{}}
		result := action.Attempt(t.Context())
		_, parkErr := action.Park(t.Context(), nil)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		if result.Outcome != lifecycle.Failed || !errors.Is(result.Err, unix.EMFILE) || result.ExitCode != -1 || !errors.Is(parkErr, unix.EMFILE) {
			t.Errorf("%d free descriptors: got %+v, Park: %v", spare, result, parkErr)
		}
		if got := openFDs(t); got != before {
			t.Fatalf("%d free descriptors: %d descriptors, %d before", spare, got, before)
		}
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
}

// TestExecSaysWhyNothingWasStarted: the host exits before it has started the handler.
func TestExecSaysWhyNothingWasStarted(t *testing.T) {
	for name, test := range map[string]struct{ script, says string }{
		"with the host's error":             {`head -n 1 <&3 >/dev/null; echo '{"Error": "no such program"}' >&3; exit 1`, "cannot start: no such program"},
		"without an answer":                 {"exit 1", "cannot start: the handler host exited without an answer"},
		"with a broken answer":              {"echo nonsense >&3", "cannot start: the handler host exited without an answer"},
		"by a signal":                       {"kill -9 $$", "cannot start: the handler host exited without an answer"},
		"with a pid and no pidfd":           {`head -n 1 <&3 >/dev/null; echo '{"Pid": 1}' >&3`, "cannot start: the handler host sent no pidfd of the handler's process"},
		"without reading the whole request": {`head -c 10 <&3 >/dev/null; exit 1`, "cannot start: the handler host exited without an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			host, monitor := scriptHost(t, test.script)
			before := openFDs(t)
			action := &Exec{Host: host, OutputLimit: 100, Progress: &Progress{}, Request: wire.StartRequest{
				ID: "c1", Args: []string{strings.Repeat("x", 500_000)}, // more than the socket's buffer
			}}
			result := action.Attempt(t.Context())
			if result.Outcome != lifecycle.Failed || result.ExitCode != -1 || !strings.Contains(result.Err.Error(), test.says) {
				t.Errorf("got %+v", result)
			}
			nothingIsLeft(t, monitor, before)
		})
	}
}

// TestExecOfACancelledHandlerStartsNothing: Attempt starts no host after its context was
// cancelled.
func TestExecOfACancelledHandlerStartsNothing(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrContainerExited)
	result := run(ctx, &Exec{}, time.Second)
	if result.Outcome != lifecycle.Aborted || !errors.Is(result.Err, ErrContainerExited) || result.ExitCode != -1 {
		t.Errorf("got %+v", result)
	}
}

// TestExecEndsAHostThatHangs: otherwise a container could not be stopped.
func TestExecEndsAHostThatHangs(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	host, monitor := scriptHost(t, "echo said before; : > "+ready+"; exec sleep 1000")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ended := make(chan Result, 1)
	before := openFDs(t)
	go func() { ended <- run(ctx, &Exec{Host: host, OutputLimit: 100, Progress: &Progress{}}, 0) }()
	waitFor(t, func() bool { _, err := os.Stat(ready); return err == nil })
	cancel(ErrTimedOut)
	select {
	case result := <-ended:
		if result.Outcome != lifecycle.TimedOut || !errors.Is(result.Err, ErrTimedOut) || result.Output != "said before\n" {
			t.Errorf("got %+v", result)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it did not end")
	}
	nothingIsLeft(t, monitor, before)
}
