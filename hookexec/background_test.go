package hookexec

import (
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// behind is a process that a handler left in the background, with its output.
type behind struct {
	*exec.Cmd
	output *output
	stdin  io.WriteCloser
}

// leave starts a process that holds an output open after its handler has ended.
func leave(t *testing.T, background *Background, name string, args ...string) *behind {
	t.Helper()
	o, writer, err := newOutput(100, nil, background)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout = writer
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	_ = writer.Close()
	o.finish()
	return &behind{Cmd: cmd, output: o, stdin: stdin}
}

func (b *behind) isLeft() bool { left := b.output.left.Load(); return left != nil && left.open.Load() }

// wantSIGPIPE checks that the process is killed by SIGPIPE when it writes again.
func (b *behind) wantSIGPIPE(t *testing.T) {
	t.Helper()
	err := b.Wait()
	status, ok := b.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != unix.SIGPIPE {
		t.Errorf("it exited with %v", err)
	}
}

// newBackground counts what it evicts.
func newBackground(t *testing.T, exited <-chan struct{}) (*Background, *atomic.Int32) {
	t.Helper()
	evicted := &atomic.Int32{}
	background := NewBackground(exited, func() { evicted.Add(1) })
	t.Cleanup(background.Close)
	return background, evicted
}

func (b *Background) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.left)
}

// FAULTS C1: a process that a handler leaves in the background can write far more than a
// pipe holds, and survives. After its exit, its output is closed.
func TestC1BackgroundChildGoesOnWriting(t *testing.T) {
	goroutines, fds := runtime.NumGoroutine(), openFDs(t)
	background, evicted := newBackground(t, nil)
	child := leave(t, background, "sh", "-c", "for i in 1 2 3; do head -c 100000 /dev/zero; read line; done; exit 3")
	for range 3 {
		if _, err := io.WriteString(child.stdin, "continue\n"); err != nil {
			t.Fatal(err)
		}
	}
	if !child.isLeft() {
		t.Error("Background does not count it")
	}
	if err := child.Wait(); child.ProcessState.ExitCode() != 3 {
		t.Errorf("it exited with %v", err)
	}
	waitFor(t, func() bool { return !child.isLeft() })
	waitFor(t, func() bool { return runtime.NumGoroutine() == goroutines })
	if got := openFDs(t); got != fds || evicted.Load() != 0 {
		t.Errorf("%d descriptors, %d before; %d evicted", got, fds, evicted.Load())
	}
	// A second one, after the goroutines have ended.
	child = leave(t, background, "sh", "-c", "read line; echo more; exit 4")
	if _, err := io.WriteString(child.stdin, "continue\n"); err != nil || !child.isLeft() {
		t.Errorf("Background does not count it: %v", err)
	}
	if err := child.Wait(); child.ProcessState.ExitCode() != 4 {
		t.Errorf("it exited with %v", err)
	}
}

// TestOutputWithoutWritersIsClosed: a Background does not keep it.
func TestOutputWithoutWritersIsClosed(t *testing.T) {
	background, _ := newBackground(t, nil)
	fds := openFDs(t)
	for _, text := range []string{"", "said\n"} {
		o, writer, err := newOutput(100, nil, background)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(writer, text); err != nil {
			t.Fatal(err)
		}
		_ = writer.Close()
		if got, _ := o.finish(); got != text || o.left.Load() != nil || background.count() != 0 {
			t.Errorf("got %q, %d left", got, background.count())
		}
	}
	if got := openFDs(t); got != fds {
		t.Errorf("%d descriptors, %d before", got, fds)
	}
}

// TestC1OldestIsClosed: when a 17th background output is added, the first one is closed.
func TestC1OldestIsClosed(t *testing.T) {
	fds := openFDs(t)
	background, evicted := newBackground(t, nil)
	var children []*behind
	goroutines := runtime.NumGoroutine()
	const most = 16 // docs/spec.md#background
	for range most {
		children = append(children, leave(t, background, "cat"))
	}
	if evicted.Load() != 0 || background.count() != most {
		t.Errorf("%d evicted, %d left", evicted.Load(), background.count())
	}
	// The drain has two goroutines. os/exec has none for a process's stdin, which is a pipe.
	if got := runtime.NumGoroutine() - goroutines; got > 2 {
		t.Errorf("%d goroutines for %d outputs", got, most)
	}
	last := leave(t, background, "cat")
	if evicted.Load() != 1 || background.count() != most || children[0].isLeft() || !last.isLeft() {
		t.Errorf("%d evicted, %d left", evicted.Load(), background.count())
	}
	for i, child := range append(children, last) {
		if _, err := io.WriteString(child.stdin, "x"); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			child.wantSIGPIPE(t)
			continue
		}
		_ = child.stdin.Close()
		if err := child.Wait(); err != nil {
			t.Errorf("child %d: %v", i, err)
		}
	}
	waitFor(t, func() bool { return background.count() == 0 })
	if got := openFDs(t); got != fds {
		t.Errorf("%d descriptors, %d before", got, fds)
	}
}

// TestBackgroundEnds: a Background closes all outputs when its container exits or when it is
// closed. It takes over no output afterwards.
func TestBackgroundEnds(t *testing.T) {
	for name, how := range map[string]func(*Background, chan struct{}){
		"with the container": func(_ *Background, exited chan struct{}) { close(exited) },
		"when closed":        func(b *Background, _ chan struct{}) { b.Close(); b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			goroutines, fds := runtime.NumGoroutine(), openFDs(t)
			exited := make(chan struct{})
			background, evicted := newBackground(t, exited)
			first, second := leave(t, background, "yes"), leave(t, background, "yes")
			waitFor(t, func() bool { return written(t, first.Process.Pid) > 1<<18 && written(t, second.Process.Pid) > 1<<18 })
			how(background, exited)
			for _, child := range []*behind{first, second} {
				child.wantSIGPIPE(t)
				if child.isLeft() {
					t.Error("Background still counts it")
				}
			}
			late := leave(t, background, "yes")
			late.wantSIGPIPE(t)
			if late.isLeft() {
				t.Error("an output was taken over after the end")
			}
			waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
			for _, child := range []*behind{first, second, late} {
				_ = child.stdin.Close()
			}
			if got := openFDs(t); got != fds || evicted.Load() != 0 {
				t.Errorf("%d descriptors, %d before; %d evicted", got, fds, evicted.Load())
			}
		})
	}
}

// TestCloseWaitsForTheGoroutines: Close returns after they have ended.
func TestCloseWaitsForTheGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		background := NewBackground(nil, nil)
		works, closed := make(chan struct{}), false
		background.work.Go(func() { <-works })
		go func() {
			background.Close()
			closed = true
		}()
		synctest.Wait()
		if closed {
			t.Error("Close did not wait")
		}
		close(works)
		synctest.Wait()
		if !closed {
			t.Error("Close still waits")
		}
	})
}

// TestNoBackground: a nil Background takes over no output, and can be closed.
func TestNoBackground(t *testing.T) {
	leave(t, nil, "yes").wantSIGPIPE(t)
	var none *Background
	none.Close()
}

// TestBackgroundIsReadSlowly: endless writers cost little time and memory. They share the
// limit fairly.
func TestBackgroundIsReadSlowly(t *testing.T) {
	background, _ := newBackground(t, nil)
	const children = 3
	var all []*behind
	for range children {
		all = append(all, leave(t, background, "yes"))
	}
	total := func() (sum, least int64) {
		least = 1 << 62
		for _, child := range all {
			n := written(t, child.Process.Pid)
			sum, least = sum+n, min(least, n)
		}
		return sum, least
	}
	waitFor(t, func() bool { _, least := total(); return least > 1<<17 }) // more than a pipe holds
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	began := time.Now()
	start, _ := total()
	waitFor(t, func() bool { _, least := total(); return least > 1<<20 })
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	end, _ := total()
	took := time.Since(began)
	// One more round, and what was and is in each pipe.
	most := int64(took/(50*time.Millisecond)+2)*(64<<10) + children*(64<<10)
	if end-start > most {
		t.Errorf("%d bytes were read in %s, want at most %d", end-start, took, most)
	}
	t.Logf("%d bytes in %s, %s of user time", end-start, took, time.Duration(after.Utime.Nano()-before.Utime.Nano()))
}

// TestOutputLeftBehindALog: output of a background child does not reach the log.
func TestOutputLeftBehindALog(t *testing.T) {
	background, _ := newBackground(t, nil)
	log := &noting{}
	o, writer, err := newOutput(100, log, background)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if _, err := io.WriteString(writer, "before"); err != nil {
		t.Fatal(err)
	}
	o.finish()
	for range 3 {
		if _, err := io.WriteString(writer, strings.Repeat("after", 20_000)); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := o.tail.text(); got != "before" || log.String() != "before|" {
		t.Errorf("kept %q, logged %q", got, log.String())
	}
}

// TestProgressCountsTheBackground: the count includes all attempts, but only processes that
// still run.
func TestProgressCountsTheBackground(t *testing.T) {
	background, _ := newBackground(t, nil)
	progress := &Progress{}
	if progress.Background() != 0 {
		t.Error("a handler without attempts has background outputs")
	}
	var children []*behind
	for attempt := range 3 {
		progress.begin(attempt + 1)
		child := leave(t, background, "cat")
		progress.show(child.output)
		children = append(children, child)
		if got := progress.Background(); got != attempt+1 {
			t.Errorf("attempt %d: %d background outputs", attempt+1, got)
		}
	}
	progress.begin(4)
	if got := progress.Background(); got != 3 {
		t.Errorf("%d background outputs", got)
	}
	for i, child := range children {
		_ = child.stdin.Close()
		waitFor(t, func() bool { return progress.Background() == 2-i })
	}
	progress.begin(5)
	if len(progress.left) != 0 {
		t.Errorf("%d are kept", len(progress.left))
	}
}
