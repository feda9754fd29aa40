package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxOutput of a command; a longer one is an error. The longest usual one, of a check, has some kB.
	maxOutput = 1 << 20
	// maxComplaint is how much of the end of its stderr is kept.
	maxComplaint = 2 << 10
	// stopLimit is from a command's SIGTERM, which it gets when its context ends, to its SIGKILL.
	stopLimit = 5 * time.Second
)

// namespaces of the node. The pid namespace is the container's already (hostPID), which the kubelet arranges.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// Host is a node, seen from a container.
type Host struct {
	// PID is a process in the node's namespaces: its first one.
	PID int

	enter func(pid int) error // of tests; nil: enter
}

// Path returns the path of one of this container's files as the node sees it.
func Path(file string) string {
	return fmt.Sprintf("/proc/%d/root%s", os.Getpid(), filepath.Clean("/"+file))
}

// Output of a command that has run.
type Output struct {
	Stdout    []byte // at most maxOutput
	Complaint string // the end of stderr
	Code      int    // exit status; -1: a signal has ended it
}

// EntryError says why the node's namespaces cannot be entered.
type EntryError struct{ Err error }

func (e *EntryError) Error() string {
	return "cannot enter the namespaces of the node's first process: " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *EntryError) Unwrap() error { return e.Err }

// Run runs a program of this container's image on the node, and returns when it has ended. That it fails is in Output. When ctx
// ends, the program gets SIGTERM, and some seconds later SIGKILL; if this process is killed, it continues.
func (h Host) Run(ctx context.Context, program string, args ...string) (Output, error) {
	if os.Getpid() == h.PID {
		return Output{}, &EntryError{errors.New("this is the first process itself: the pod needs hostPID: true")}
	}
	type result struct {
		output Output
		err    error
	}
	results := make(chan result, 1)
	go onThread(func() {
		output, err := h.run(ctx, program, args)
		results <- result{output, err}
	})
	r := <-results
	return r.output, r.err
}

// onThread calls f on an OS thread of its own, which ends after it: a thread that has entered other namespaces is of no use
// for anything else. It is not the process's first thread, because that one's root is what Path leads to.
func onThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // locked: the thread ends
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		onThread(f)
	}()
	<-done
	runtime.UnlockOSThread()
}

func (h Host) run(ctx context.Context, program string, args []string) (Output, error) {
	enterNode := h.enter
	if enterNode == nil {
		enterNode = enter
	}
	path := Path(program)
	if err := enterNode(h.PID); err != nil {
		return Output{}, &EntryError{err}
	}
	stdout, stderr := &bounded{limit: maxOutput}, &bounded{limit: maxComplaint, last: true}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C reaches this process alone, which passes it on
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = stopLimit
	err := cmd.Run()
	output := Output{Stdout: stdout.text.Bytes(), Complaint: stderr.text.String()}
	if cmd.ProcessState != nil {
		output.Code = cmd.ProcessState.ExitCode()
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return output, context.Cause(ctx)
	case stdout.over:
		return output, fmt.Errorf("cannot use the answer of %s, which has more than %d bytes", program, maxOutput)
	case err != nil && !errors.As(err, &exit):
		return output, fmt.Errorf("cannot run %s on the node: %w", program, err)
	}
	return output, nil
}

// enter moves this thread into the node's namespaces.
func enter(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// A thread that shares its root and working directory with others cannot change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(fd, namespaces); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return nil
}

// bounded keeps the first or the last bytes of what is written, and takes the rest.
type bounded struct {
	text  bytes.Buffer
	limit int
	last  bool
	over  bool
}

// Write never fails, so that a program with too much to say still ends.
func (b *bounded) Write(data []byte) (int, error) {
	length := len(data)
	if b.last {
		data = data[max(0, len(data)-b.limit):]
		b.text.Next(max(0, b.text.Len()+len(data)-b.limit))
	} else if room := b.limit - b.text.Len(); len(data) > room {
		data, b.over = data[:room], true
	}
	b.text.Write(data)
	return length, nil
}
