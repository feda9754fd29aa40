package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// here does not leave the test's own namespaces.
func here(int) error { return nil }

// script is a program for Run.
func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRun(t *testing.T) {
	output, err := Host{PID: 1, enter: here}.Run(t.Context(), script(t, `echo "$1 $PWD $HOME $SECRET"; seq 100000 >&2; exit 3`), "first")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(output.Stdout); got != "first / /root \n" || output.Code != 3 {
		t.Errorf("stdout %q, exit status %d", got, output.Code)
	}
	if len(output.Complaint) > maxComplaint || !strings.HasSuffix(output.Complaint, "100000\n") {
		t.Errorf("%d bytes of stderr end with %q", len(output.Complaint), output.Complaint[max(0, len(output.Complaint)-10):])
	}
}

func TestTooMuchOutput(t *testing.T) {
	output, err := Host{PID: 1, enter: here}.Run(t.Context(), script(t, `yes | head -c 3000000`))
	if err == nil || len(output.Stdout) > maxOutput {
		t.Errorf("%d bytes, error %v", len(output.Stdout), err)
	}
}

// TestEnds: a program that ignores SIGTERM, and whose child holds its output, does not hold Run.
func TestEnds(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	if err := unix.Mkfifo(ready, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the test has seen enough")
	go func() {
		_, _ = os.ReadFile(ready) // returns when the program has begun
		cancel(why)
	}()
	begun := time.Now()
	_, err := Host{PID: 1, enter: here}.Run(ctx, script(t, `trap '' TERM; sleep 30 & echo begun >`+ready+`; wait; wait`))
	if !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(begun); took < stopLimit || took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestCannotRun(t *testing.T) {
	var entry *EntryError
	if _, err := (Host{PID: 1, enter: func(int) error { return unix.EPERM }}).Run(t.Context(), "/bin/true"); !errors.As(err, &entry) || !errors.Is(err, unix.EPERM) {
		t.Errorf("without rights: %v", err)
	}
	if _, err := (Host{PID: os.Getpid()}).Run(t.Context(), "/bin/true"); !errors.As(err, &entry) {
		t.Errorf("in a pid namespace of its own: %v", err)
	}
	if _, err := (Host{PID: 1, enter: here}).Run(t.Context(), "/nowhere"); err == nil || errors.As(err, &entry) {
		t.Errorf("a program that does not exist: %v", err)
	}
	if _, err := (Host{PID: 1 << 30}).Run(t.Context(), "/bin/true"); !errors.As(err, &entry) {
		t.Errorf("a process that does not exist: %v", err)
	}
}

// TestThread: f never runs on the process's first thread, even if its goroutine does.
func TestThread(t *testing.T) {
	for range 100 {
		done := make(chan int)
		go onThread(func() { done <- unix.Gettid() })
		if <-done == unix.Getpid() {
			t.Fatal("it runs on the first thread")
		}
	}
}
