package hookexec

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// tail keeps the last limit bytes that were written to it.
type tail struct {
	limit int

	mu      sync.Mutex // text is called while the process still writes
	kept    []byte
	dropped int64
}

// Write never fails. The buffer may grow to twice the limit: otherwise a handler that
// writes byte by byte would move the whole tail for each byte.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	written := len(p)
	if over := len(p) - t.limit; over > 0 {
		t.dropped += int64(over)
		p = p[over:]
	}
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*t.limit {
		t.cut()
	}
	return written, nil
}

// cut drops what exceeds the limit. The caller holds mu.
func (t *tail) cut() {
	if over := len(t.kept) - t.limit; over > 0 {
		t.dropped += int64(over)
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
}

// text returns the tail, beginning at a UTF-8 boundary, and how many bytes came before it.
func (t *tail) text() (string, int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut()
	start := 0
	if t.dropped > 0 {
		for start < len(t.kept) && start < utf8.UTFMax-1 && !utf8.RuneStart(t.kept[start]) {
			start++
		}
	}
	return printable(t.kept[start:]), t.dropped + int64(start)
}

// Log receives a copy of a handler's output. One goroutine at a time uses it. Its methods
// must not block.
type Log interface {
	io.Writer // never fails
	// EndLine is called after each attempt: the last line may lack its newline.
	EndLine()
}

// output collects what a process writes to a pipe.
type output struct {
	reader *os.File
	tail   tail
	log    Log           // may be nil
	done   chan struct{} // closed when collect returns
	// background takes over the pipe if other processes still hold it in finish; may be nil.
	background *Background
	// left is set by finish if background took the pipe over.
	left atomic.Pointer[leftover]
}

// newOutput returns the write end too. The caller closes it when the process has been
// started.
func newOutput(limit int, log Log, background *Background) (*output, *os.File, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	o := &output{reader: reader, tail: tail{limit: limit}, log: log, done: make(chan struct{}), background: background}
	go o.collect()
	return o, writer, nil
}

// collect reads until every writer is gone or finish interrupts it.
func (o *output) collect() {
	defer close(o.done)
	buffer := make([]byte, 4096)
	for {
		n, err := o.reader.Read(buffer)
		o.take(buffer[:n])
		if err != nil {
			return
		}
	}
}

func (o *output) take(p []byte) {
	_, _ = o.tail.Write(p)
	if o.log != nil {
		_, _ = o.log.Write(p)
	}
}

// finish reads what is in the pipe now, and returns the tail. It does not wait for end of
// file: a background child of the handler may hold the pipe open as long as the container
// runs. What such a child writes later is dropped, and does not reach the Log either.
func (o *output) finish() (string, int64) {
	_ = o.reader.SetReadDeadline(time.Now())
	<-o.done
	_ = o.reader.SetReadDeadline(time.Time{})
	if raw, err := o.reader.SyscallConn(); err == nil {
		_ = raw.Read(func(fd uintptr) bool {
			o.drain(int(fd))
			return true
		})
		o.left.Store(o.background.take(raw))
	}
	_ = o.reader.Close()
	if o.log != nil {
		o.log.EndLine()
	}
	return o.tail.text()
}

// drain reads as many bytes as are in the pipe at this moment, because a writer may never
// stop. The descriptor does not block.
func (o *output) drain(fd int) {
	waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ) // the same as FIONREAD
	buffer := make([]byte, 4096)
	for err == nil && waiting > 0 {
		var n int
		if n, err = unix.Read(fd, buffer[:min(len(buffer), waiting)]); n <= 0 {
			return
		}
		o.take(buffer[:n])
		waiting -= n
	}
}
