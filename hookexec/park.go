package hookexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Parked is a command that was started ahead of time. Its process, inside the container,
// is blocked at the step where it sends its pidfd: before it sets the container's
// capabilities and seccomp profile and looks for its program. The steps before that take
// most of a handler's time.
//
// The process blocks because the socket that it writes to is full. This needs no support
// from libcontainer, which has no such step. The process exits when the shim dies.
type Parked struct {
	run *execRun
	// stuffing is how many bytes were written to fill the socket.
	stuffing int64
	// resumed is closed by resume. After that, only the attempt's context ends the command.
	resumed chan struct{}
	// cancel kills the command.
	cancel context.CancelCauseFunc
	// done is closed when the command has exited and result is set.
	done   chan struct{}
	result Result
}

// Park starts the command and parks it. The command is killed when ctx is cancelled, and,
// until it is resumed, when exited is closed.
func (e *Exec) Park(ctx context.Context, exited <-chan struct{}) (*Parked, error) {
	channel, files, err := newChannel()
	if err != nil {
		return nil, err
	}
	stuffing, err := stuff(files[pidfdFile])
	if err != nil {
		channel.close()
		closeAll(files...)
		return nil, err
	}
	run, err := e.begin(channel, files)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	p := &Parked{run: run, stuffing: stuffing, resumed: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.result = run.wait(ctx)
	}()
	go func() {
		defer cancel(nil)
		select {
		case <-exited:
			cancel(ErrContainerExited)
		case <-p.resumed:
			<-p.done
		case <-p.done:
		}
	}()
	return p, nil
}

// Cancel kills a command that has not been resumed. It does not wait for its exit.
func (p *Parked) Cancel() { p.cancel(errNotNeeded) }

var errNotNeeded = errors.New("the handler is no longer needed")

// resume lets the command continue, and waits for its exit. ok is false if the command
// ended while it was parked: it had not run anything of the handler yet, so the caller can
// start it again. resume checks the host's socket, because the reaper may not have
// reported the exit yet.
func (p *Parked) resume(ctx context.Context, progress *Progress) (_ Result, ok bool) {
	if !p.run.channel.waits() {
		p.cancel(errNotNeeded)
		<-p.done
		return Result{}, false
	}
	close(p.resumed)
	progress.show(p.run.output)
	stop := context.AfterFunc(ctx, func() { p.cancel(context.Cause(ctx)) })
	defer stop()
	if err := p.run.channel.unstuff(p.stuffing); err != nil {
		p.cancel(err)
	}
	<-p.done
	return p.result, true
}

// stuff fills a socket's buffer, so that the next write blocks until the peer reads. It
// returns the number of bytes.
func stuff(socket *os.File) (int64, error) {
	fd := int(socket.Fd())
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 0); err != nil { // the kernel's minimum, socket(7)
		return 0, fmt.Errorf("setsockopt SO_SNDBUF: %w", err)
	}
	buffer := make([]byte, 4096)
	for total := int64(0); ; {
		n, err := unix.SendmsgN(fd, buffer, nil, nil, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return total, nil
		}
		if err != nil {
			return 0, fmt.Errorf("fill a socket: %w", err)
		}
		total += int64(n)
	}
}

// waits reports whether the host has neither answered nor exited.
func (c *channel) waits() bool {
	raw, err := c.control.SyscallConn()
	if err != nil {
		return false
	}
	var peekErr error
	_ = raw.Control(func(fd uintptr) { // it fails only if the socket is closed, because the host has exited
		_, _, peekErr = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return errors.Is(peekErr, unix.EAGAIN)
}

// unstuff reads what stuff wrote, and nothing after it: that byte carries the pidfd.
func (c *channel) unstuff(count int64) error {
	if _, err := io.CopyN(io.Discard, c.pidfds, count); err != nil {
		return fmt.Errorf("empty a socket: %w", err)
	}
	return nil
}
