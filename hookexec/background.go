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

// maxLeft is how many outputs of background processes are kept open for one container
// (docs/spec.md#background).
const maxLeft = 16

// Rate limit: drainSize bytes are read every drainPeriod, for all outputs of a container
// together. This bounds what an endless writer costs the shim. A process that writes
// faster blocks, as with any slow reader.
const (
	drainSize   = 64 << 10
	drainPeriod = 50 * time.Millisecond
)

// Background reads and drops the output of processes that a container's handlers left in
// the background. Otherwise a full pipe would block them, or SIGPIPE would kill them.
// It is safe for concurrent use. It runs two goroutines while such a process exists.
type Background struct {
	exited  <-chan struct{}
	evicted func()

	mu     sync.Mutex
	closed bool
	left   []*leftover // the oldest first
	drain  *drain      // nil while left is empty
	work   sync.WaitGroup
}

// leftover is the read end of an output that a background process still holds.
type leftover struct {
	fd   int // does not block
	open atomic.Bool
}

// NewBackground returns a Background that closes itself when the container exits, which
// closes exited. When the oldest output is closed to make room for another one, evicted
// is called without a lock: the output's process gets SIGPIPE if it writes again.
func NewBackground(exited <-chan struct{}, evicted func()) *Background {
	return &Background{exited: exited, evicted: evicted}
}

// take keeps the pipe behind reader open while a process has it open for writing. It
// returns nil if no process has, or if the container exited. The caller closes reader.
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

// duplicate returns a second descriptor of the pipe, or -1 on error. Go's poller does not
// know it: the poller would need a goroutine for each.
func duplicate(reader syscall.RawConn) int {
	duplicated := -1
	_ = reader.Control(func(fd uintptr) { // it fails only if the file is closed
		duplicated, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) // -1 on error
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
	_ = unix.Close(fd) // the kernel refuses -1
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

// begin starts the goroutines. The caller holds mu.
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
		case <-drain.done: // wait now returns an error
		}
	}
}

// drop reads once from each output that is ready, and releases those at end of file.
func (b *Background) drop(ready []unix.EpollEvent, buffer []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, event := range ready {
		for _, left := range b.left {
			// The number may belong to another output by now. Reading that is harmless: it does not block.
			if int32(left.fd) == event.Fd && !left.read(drainSize/len(ready), buffer) {
				b.release(left)
				break
			}
		}
	}
	b.endIfIdle()
}

// read drops up to size bytes, and returns false at end of file. Each read counts as a
// full buffer: a pipe in packet mode (O_DIRECT) returns one write at a time, so a process
// that writes single bytes would otherwise cost one read per byte.
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

// release closes an output. The caller holds mu.
func (b *Background) release(left *leftover) {
	b.left = slices.DeleteFunc(b.left, func(other *leftover) bool { return other == left })
	left.open.Store(false)
	b.drain.remove(left.fd)
	closeFD(left.fd)
}

// endIfIdle stops the goroutines if no output remains. The caller holds mu.
func (b *Background) endIfIdle() {
	if len(b.left) == 0 && b.drain != nil {
		b.drain.close()
		b.drain = nil
	}
}

// Close closes all outputs and waits for the goroutines. After it, take returns nil.
// Close of a nil Background does nothing.
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

// drain is an epoll instance that Go's own poller waits for: waiting for any number of
// outputs takes one goroutine and no thread.
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
	_ = unix.SetNonblock(fd, true) // makes os.File use the poller; of an open descriptor it does not fail
	epoll := os.NewFile(uintptr(fd), "epoll of background outputs")
	raw, _ := epoll.SyscallConn() // it fails only for nil
	return &drain{epoll: epoll, raw: raw, done: make(chan struct{})}, nil
}

func (d *drain) add(fd int) error {
	return d.control(unix.EPOLL_CTL_ADD, fd)
}

// remove is needed although the caller closes fd next: a process that is being forked at
// this moment may have a copy of it.
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

// wait returns the outputs that have data or are at end of file. It returns an error after
// close.
func (d *drain) wait() (ready []unix.EpollEvent, err error) {
	err = d.raw.Read(func(epoll uintptr) bool {
		n, _ := unix.EpollWait(int(epoll), d.events[:], 0) // on EINTR, n is -1: no event
		ready = d.events[:max(n, 0)]
		return n > 0
	})
	return ready, err
}

func (d *drain) close() {
	close(d.done)
	_ = d.epoll.Close()
}
