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

	mu      sync.Mutex // against those who look on
	kept    []byte
	dropped int64
}

// Write never fails. It holds at most twice the limit, so that a handler that
// writes byte by byte does not move the whole tail for each.
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

// cut is called with mu held.
func (t *tail) cut() {
	if over := len(t.kept) - t.limit; over > 0 {
		t.dropped += int64(over)
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
}

// text returns the tail from a UTF-8 boundary on, and the bytes before it.
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

// Log is where a handler's output goes besides. It is used by one goroutine at a
// time, and must not wait for anything.
type Log interface {
	io.Writer // never fails
	// EndLine is called at the end of an attempt, whose last line may have none.
	EndLine()
}

// output collects what a process writes to a pipe.
type output struct {
	reader *os.File
	tail   tail
	log    Log           // nil where there is none
	done   chan struct{} // closed by the collecting goroutine when it ends
	// background takes over what others still hold at the end; nil: nothing does.
	background *Background
	// left is set by finish if something was taken over.
	left atomic.Pointer[leftover]
}

// newOutput returns the write end, which the caller closes once the process has
// it.
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

// finish takes what is in the pipe now. It does not wait for the end of the output: a
// background child of the handler may hold the pipe open for as long as the container
// lives. What such a child writes is nobody's output any more, also with a Log.
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

// drain reads as many bytes as wait in the pipe at this moment: a writer that
// never stops must not keep it busy. The descriptor does not block.
func (o *output) drain(fd int) {
	waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ) // FIONREAD by its other name
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
