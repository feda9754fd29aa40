package hookexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Parked is a command that has been started up to where its process, inside the
// container, sends its pidfd: it waits there, before it takes the container's
// capabilities and seccomp profile and looks for its program. All that comes before
// is most of a handler's time.
//
// It waits because the socket that it writes to is full. So it needs no word with
// libcontainer, which has no such step, and ends by itself when the shim dies.
type Parked struct {
	run *execRun
	// stuffing is how many bytes the socket was filled with.
	stuffing int64
	// resumed is closed when it is nobody's but the attempt's.
	resumed chan struct{}
	// cancel ends it.
	cancel context.CancelCauseFunc
	// done is closed when it has ended, with result.
	done   chan struct{}
	result Result
}

// Park starts the command and parks it. It is ended when ctx is, and, until it is
// resumed, when exited is closed.
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
			<-p.done
		case <-p.resumed:
			<-p.done
		case <-p.done:
		}
	}()
	return p, nil
}

// Cancel ends what has not been resumed, and does not wait for its end.
func (p *Parked) Cancel() { p.cancel(errNotNeeded) }

var errNotNeeded = errors.New("it was not due any more")

// resume lets the command go on, and follows it to its end. ok is false where it has
// ended before: it was not more than a preparation then, and nothing is lost. The host
// is asked, as the shim may not have been told of its end yet.
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

// stuff fills what a socket may hold, so that whoever writes to it next waits until
// its peer has read. It returns the number of bytes.
func stuff(socket *os.File) (int64, error) {
	fd := int(socket.Fd())
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 0); err != nil { // the kernel's least, socket(7)
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

// waits tells whether the host has neither answered nor ended.
func (c *channel) waits() bool {
	raw, err := c.control.SyscallConn()
	if err != nil {
		return false
	}
	var said error
	err = raw.Control(func(fd uintptr) {
		_, _, said = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err == nil && errors.Is(said, unix.EAGAIN)
}

// unstuff reads what stuff has written, and not a byte of what comes after it: with
// that a pidfd would be lost.
func (c *channel) unstuff(count int64) error {
	if _, err := io.CopyN(io.Discard, c.pidfds, count); err != nil {
		return fmt.Errorf("empty a socket: %w", err)
	}
	return nil
}
