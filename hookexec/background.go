package hookexec

import (
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxLeft bounds the outputs that are kept open for what the handlers of one container
// have left in the background (docs/spec.md#background).
const maxLeft = 16

// How fast they are read: drainSize bytes every drainPeriod, for all outputs of a
// container together. That is what the shim spends on a process that writes for ever;
// a process that writes more waits, as it would for any slow reader.
const (
	drainSize   = 64 << 10
	drainPeriod = 50 * time.Millisecond
)

// Background reads and drops what processes write that a container's handlers have left
// in the background, so that no full pipe stops them and no SIGPIPE ends them. It is
// safe for concurrent use. It has two goroutines while such a process exists, else none.
type Background struct {
	exited  <-chan struct{}
	evicted func()

	mu     sync.Mutex
	closed bool
	left   []*leftover // the oldest first
	drain  *drain      // nil while left is empty
	work   sync.WaitGroup
}

// leftover is the read end of an output that a process in the background holds.
type leftover struct {
	fd   int // does not block
	open atomic.Bool
}

// NewBackground returns a Background that closes itself when exited is closed, which is
// when the container exits. evicted is called, with no lock held, when the oldest output
// is closed to make room for another one: its process gets SIGPIPE if it writes again.
func NewBackground(exited <-chan struct{}, evicted func()) *Background {
	return &Background{exited: exited, evicted: evicted}
}

// take keeps the pipe behind reader open for as long as somebody can write to it, and
// returns nil if nobody can or if the container has exited. The caller closes reader.
func (b *Background) take(reader syscall.RawConn) *leftover {
	if b == nil {
		return nil
	}
	fd := duplicate(reader)
	if fd < 0 || !writable(fd) {
		closeFD(fd)
		return nil
	}
	added := &leftover{fd: fd}
	ok, full := b.add(added)
	if !ok {
		closeFD(fd)
		return nil
	}
	if full {
		b.evicted()
	}
	return added
}

// duplicate returns a descriptor of its own for the pipe, or -1. It is not known to Go's
// poller, which would need a goroutine for each.
func duplicate(reader syscall.RawConn) int {
	duplicated := -1
	_ = reader.Control(func(fd uintptr) { // its only error is that of a closed file
		if own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			duplicated = own
		}
	})
	return duplicated
}

// writable reports whether a process holds the pipe's other end.
func writable(fd int) bool {
	state := []unix.PollFd{{Fd: int32(fd)}}
	for {
		if _, err := unix.Poll(state, 0); !errors.Is(err, unix.EINTR) {
			return err == nil && state[0].Revents&unix.POLLHUP == 0
		}
	}
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

func (b *Background) add(added *leftover) (ok, full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false, false
	}
	if b.drain == nil && !b.begin() {
		return false, false
	}
	if b.drain.add(added.fd) != nil {
		b.endIfIdle()
		return false, false
	}
	if full = len(b.left) == maxLeft; full {
		b.release(b.left[0])
	}
	added.open.Store(true)
	b.left = append(b.left, added)
	return true, full
}

// begin starts the goroutines. It is called with mu held.
func (b *Background) begin() bool {
	drain, err := newDrain()
	if err != nil {
		return false
	}
	b.drain = drain
	b.work.Go(func() { b.run(drain) })
	b.work.Go(func() {
		select {
		case <-b.exited:
			b.close()
		case <-drain.done:
		}
	})
	return true
}

// run reads until drain is closed.
func (b *Background) run(drain *drain) {
	timer := time.NewTimer(drainPeriod)
	defer timer.Stop()
	buffer := make([]byte, 4096)
	for {
		ready, err := drain.wait()
		if err != nil {
			return
		}
		b.drop(ready, buffer)
		timer.Reset(drainPeriod)
		select {
		case <-timer.C:
		case <-drain.done:
			return
		}
	}
}

// drop reads once from those that are ready, and releases those that have ended.
func (b *Background) drop(ready []unix.EpollEvent, buffer []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, event := range ready {
		for _, left := range b.left {
			// A number may have been given to another output since: reading does not block.
			if int32(left.fd) == event.Fd && !left.read(drainSize/len(ready), buffer) {
				b.release(left)
				break
			}
		}
	}
	b.endIfIdle()
}

// read drops up to size bytes, and returns false at the end of the output. A read counts
// for a whole buffer: a pipe in packet mode (O_DIRECT) returns one write at a time, so that
// a process that writes single bytes would cost as many reads as bytes.
func (l *leftover) read(size int, buffer []byte) bool {
	for ; size > 0; size -= len(buffer) {
		n, err := unix.Read(l.fd, buffer)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return true
		case n <= 0:
			return false
		}
	}
	return true
}

// release closes an output. It is called with mu held.
func (b *Background) release(left *leftover) {
	b.left = slices.DeleteFunc(b.left, func(other *leftover) bool { return other == left })
	left.open.Store(false)
	b.drain.remove(left.fd)
	closeFD(left.fd)
}

// endIfIdle ends the goroutines if nothing is left. It is called with mu held.
func (b *Background) endIfIdle() {
	if len(b.left) == 0 && b.drain != nil {
		b.drain.close()
		b.drain = nil
	}
}

// Close closes all outputs, and returns when the goroutines have ended. Nothing is taken
// over afterwards. A nil Background has nothing to close.
func (b *Background) Close() {
	if b == nil {
		return
	}
	b.close()
	b.work.Wait()
}

func (b *Background) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for len(b.left) > 0 {
		b.release(b.left[0])
	}
	b.endIfIdle()
}

// drain is an epoll instance that Go's own poller waits for, so that the wait for any
// number of outputs takes one goroutine and no thread.
type drain struct {
	epoll  *os.File
	raw    syscall.RawConn
	events [maxLeft]unix.EpollEvent // of wait
	done   chan struct{}
}

func newDrain() (*drain, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // makes os.File use the poller
		closeFD(fd)
		return nil, err
	}
	epoll := os.NewFile(uintptr(fd), "epoll of background outputs")
	raw, err := epoll.SyscallConn()
	if err != nil {
		_ = epoll.Close()
		return nil, err
	}
	return &drain{epoll: epoll, raw: raw, done: make(chan struct{})}, nil
}

func (d *drain) add(fd int) error {
	return d.control(unix.EPOLL_CTL_ADD, fd)
}

// remove is needed although fd is closed next: a process that is just being forked may
// have a copy of it.
func (d *drain) remove(fd int) {
	_ = d.control(unix.EPOLL_CTL_DEL, fd)
}

func (d *drain) control(operation, fd int) error {
	var failed error
	err := d.raw.Control(func(epoll uintptr) {
		failed = unix.EpollCtl(int(epoll), operation, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	})
	return errors.Join(err, failed)
}

// wait returns what can be read or has ended. It fails when the drain is closed.
func (d *drain) wait() (ready []unix.EpollEvent, err error) {
	err = d.raw.Read(func(epoll uintptr) bool {
		n, _ := unix.EpollWait(int(epoll), d.events[:], 0) // EINTR is no event either
		ready = d.events[:max(n, 0)]
		return n > 0
	})
	return ready, err
}

func (d *drain) close() {
	close(d.done)
	_ = d.epoll.Close()
}
