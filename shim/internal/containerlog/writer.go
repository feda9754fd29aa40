package containerlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// maxLine is the length of the longest line, with its prefix and its end, in bytes. It
	// is PIPE_BUF: what a pipe takes in one piece or not at all (pipe(7)). A longer line is
	// cut into several.
	maxLine = 4096
	// maxQueue bounds what waits for the reader, in bytes.
	maxQueue = 1 << 20
	// patience is from the end of the output until the rest is dropped, if the reader takes
	// nothing; closeWait, if the reader is slow.
	patience  = 100 * time.Millisecond
	closeWait = time.Second
)

var errSlow = errors.New("the container's stdout is not read fast enough")

// Writer writes one handler's output. Only one goroutine at a time uses it; Close comes
// last.
type Writer struct {
	prefix, newline string
	file            *os.File
	begun           []byte // an unfinished line, with its prefix

	mu    sync.Mutex
	queue []piece
	// queued is the number of bytes in queue and being written.
	queued int
	lost   int64
	// untold is the number of lost lines that no line of the output reports yet.
	untold int64
	err    error // why lines are lost; the first reason is kept
	// broken: nothing can be written any more. closed: Close was called.
	broken, closed bool

	taken atomic.Int64  // bytes that were written
	wake  chan struct{} // capacity 1: a token says that there is something to look at
	done  chan struct{} // closed when the goroutine has ended
}

// piece is lines that a pipe takes together. lines does not count a line that reports lost
// ones.
type piece struct {
	text  []byte
	lines int64
}

// Open begins the output of a handler. If it fails, the Writer counts all lines as lost.
func (s Stream) Open(handler string) *Writer {
	w := &Writer{
		prefix: "[" + handler + "] ", newline: s.newline,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	file, err := s.open()
	if err != nil {
		w.broken, w.err = true, err
		close(w.done)
		return w
	}
	w.file = file
	go w.forward()
	return w
}

// Write takes a part of the output. It never fails and never waits.
func (w *Writer) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if len(w.begun) == 0 {
			w.begun = append(w.begun, w.prefix...)
		}
		room := maxLine - len(w.newline) - len(w.begun)
		text, rest, ended := bytes.Cut(p, []byte{'\n'})
		if len(text) <= room {
			w.begun, p = append(w.begun, text...), rest
			if ended {
				w.endLine()
			}
			continue
		}
		w.begun, p = append(w.begun, p[:room]...), p[room:]
		w.cutLine()
	}
	return written, nil
}

// cutLine ends a full line, before a character that is incomplete.
func (w *Writer) cutLine() {
	start := len(w.begun) - 1
	for start > len(w.begun)-utf8.UTFMax && !utf8.RuneStart(w.begun[start]) {
		start--
	}
	var rest []byte
	if utf8.RuneStart(w.begun[start]) && !utf8.FullRune(w.begun[start:]) {
		rest = bytes.Clone(w.begun[start:])
		w.begun = w.begun[:start]
	}
	w.endLine()
	if len(rest) > 0 {
		w.begun = append(append(w.begun, w.prefix...), rest...)
	}
}

// EndLine ends a line that has begun: the process that wrote it has exited.
func (w *Writer) EndLine() {
	if len(w.begun) > 0 {
		w.endLine()
	}
}

func (w *Writer) endLine() {
	w.begun = append(w.begun, w.newline...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken || w.queued+len(w.begun) > maxQueue {
		w.lose(1, errSlow)
	} else {
		w.reportLost()
		w.enqueue(w.begun, 1)
	}
	w.begun = w.begun[:0]
}

// lose is called with mu held.
func (w *Writer) lose(lines int64, why error) {
	w.lost += lines
	w.untold += lines
	if w.err == nil {
		w.err = why
	}
}

// reportLost writes how many lines are missing, if any. It is called with mu held.
func (w *Writer) reportLost() {
	if w.untold > 0 {
		w.enqueue(fmt.Appendf(nil, "%s[%d lines dropped]%s", w.prefix, w.untold, w.newline), 0)
		w.untold = 0
	}
}

// enqueue copies a line. It is called with mu held.
func (w *Writer) enqueue(line []byte, count int64) {
	if last := len(w.queue) - 1; last < 0 || len(w.queue[last].text)+len(line) > maxLine {
		w.queue = append(w.queue, piece{})
	}
	last := &w.queue[len(w.queue)-1]
	last.text, last.lines = append(last.text, line...), last.lines+count
	w.queued += len(line)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// forward writes what is queued until Close, or until nothing can be written.
func (w *Writer) forward() {
	defer close(w.done)
	defer w.file.Close()
	for range w.wake {
		for piece, ok := w.take(); ok; piece, ok = w.take() {
			if _, err := w.file.Write(piece.text); err != nil {
				w.fail(err, piece.lines)
				return
			}
			w.written(len(piece.text))
		}
		w.mu.Lock()
		ended := w.broken || w.closed && len(w.queue) == 0
		w.mu.Unlock()
		if ended {
			return
		}
	}
}

// take returns the next piece to write. It counts as queued until it is written.
func (w *Writer) take() (next piece, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return piece{}, false
	}
	next, w.queue = w.queue[0], w.queue[1:]
	return next, true
}

func (w *Writer) written(bytes int) {
	w.mu.Lock()
	w.queued -= bytes
	w.mu.Unlock()
	w.taken.Add(int64(bytes))
}

// fail drops what was being written, which had so many lines, and what is queued.
func (w *Writer) fail(err error, lines int64) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errSlow
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose(lines, err)
	w.drop(err)
}

// drop is called with mu held.
func (w *Writer) drop(err error) {
	w.broken = true
	for _, piece := range w.queue {
		w.lose(piece.lines, err)
	}
	w.queue = nil
}

// Close ends the output. It returns how many lines were lost, and why. It waits up to
// closeWait for a reader that reads. It may be called again.
func (w *Writer) Close() (lost int64, why error) {
	w.EndLine()
	w.mu.Lock()
	if !w.broken {
		w.reportLost()
	}
	w.closed = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	w.await()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost == 0 {
		return 0, nil
	}
	return w.lost, w.err
}

// await ends the goroutine, also if the stream is not read. If a file's disk does not respond,
// the goroutine ends when the disk does.
func (w *Writer) await() {
	ticker := time.NewTicker(patience)
	defer ticker.Stop()
	for waited, before := time.Duration(0), w.taken.Load(); ; waited += patience {
		select {
		case <-w.done:
			return
		case <-ticker.C:
		}
		if taken := w.taken.Load(); taken != before && waited < closeWait {
			before = taken
			continue
		}
		if w.file.SetWriteDeadline(time.Now()) == nil {
			<-w.done
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.drop(errSlow)
		return
	}
}
