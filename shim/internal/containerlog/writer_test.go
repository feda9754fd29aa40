package containerlog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// fifo is a container's stdout: read by a client, and held open by the shim, which
// copies the container's output into it.
type fifo struct {
	path           string
	reader, copier *os.File
}

func newFIFO(t *testing.T) *fifo {
	t.Helper()
	f := &fifo{path: filepath.Join(t.TempDir(), "c1-stdout")}
	if err := unix.Mkfifo(f.path, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.reader, err = os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		t.Fatal(err)
	}
	if f.copier, err = os.OpenFile(f.path, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = f.reader.Close(), f.copier.Close() })
	return f
}

// stream of a container with that stdout.
func (f *fifo) stream() Stream { return Of(f.path, false, 0) }

// readAll reads in the background, until text is called and the last writer has
// gone.
func (f *fifo) readAll(t *testing.T) (text func() string) {
	t.Helper()
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(f.reader)
		done <- result{data, err}
	}()
	return func() string {
		t.Helper()
		_ = f.copier.Close()
		select {
		case r := <-done:
			if r.err != nil {
				t.Error(r.err)
			}
			return string(r.data)
		case <-time.After(30 * time.Second):
			t.Fatal("the stream does not end: a process holds it open")
			return ""
		}
	}
}

// mustOpen opens the stream, which must be there.
func mustOpen(t *testing.T, stream Stream) *Writer {
	t.Helper()
	w := stream.Open("postStart")
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w
}

func write(w *Writer, texts ...string) {
	for _, text := range texts {
		_, _ = w.Write([]byte(text))
	}
}

func wantLost(t *testing.T, w *Writer, want int64, because error) {
	t.Helper()
	if lost, err := w.Close(); lost != want || !errors.Is(err, because) {
		t.Errorf("%d lines are lost because of %v, want %d because of %v", lost, err, want, because)
	}
}

// TestLines: each line has its prefix, and is whole.
func TestLines(t *testing.T) {
	const room = maxLine - len("[postStart] \n")
	x := func(n int) string { return strings.Repeat("x", n) }
	for name, test := range map[string]struct {
		terminal bool
		writes   []string
		want     []string // without prefixes and ends
	}{
		"nothing":                  {},
		"a line":                   {writes: []string{"a\n"}, want: []string{"a"}},
		"lines":                    {writes: []string{"a\nb\n\nc\n"}, want: []string{"a", "b", "", "c"}},
		"a line in parts":          {writes: []string{"a", "", "b", "\n", "c\n"}, want: []string{"ab", "c"}},
		"no end":                   {writes: []string{"a\nb"}, want: []string{"a", "b"}},
		"on a terminal":            {terminal: true, writes: []string{"a\nb"}, want: []string{"a", "b"}},
		"as long as can be":        {writes: []string{x(room) + "\nb\n"}, want: []string{x(room), "b"}},
		"too long":                 {writes: []string{x(room+1) + "\nb\n"}, want: []string{x(room), "x", "b"}},
		"far too long, in parts":   {writes: []string{x(room), x(room), x(7)}, want: []string{x(room), x(room), x(7)}},
		"a letter where it is cut": {writes: []string{x(room-1) + "é€"}, want: []string{x(room - 1), "é€"}},
		"a letter of 4, in parts":  {writes: []string{x(room-3) + "\xf0\x9f", "\x98\x80\n"}, want: []string{x(room - 3), "😀"}},
		"letters that just fit":    {writes: []string{x(room-4) + "😀" + "😀"}, want: []string{x(room-4) + "😀", "😀"}},
		"bytes that are no letter": {writes: []string{strings.Repeat("\x82", room+2)}, want: []string{strings.Repeat("\x82", room), "\x82\x82"}},
		"a letter that never ends": {writes: []string{x(room-1) + "\xe2x\n"}, want: []string{x(room - 1), "\xe2x"}},
		"whatever a program says":  {writes: []string{"\x1b[31m\x00\r\n"}, want: []string{"\x1b[31m\x00\r"}},
	} {
		t.Run(name, func(t *testing.T) {
			fifo := newFIFO(t)
			end := "\n"
			if test.terminal {
				end = "\r\n"
			}
			w := mustOpen(t, Of(fifo.path, test.terminal, 0))
			text := fifo.readAll(t)
			write(w, test.writes...)
			wantLost(t, w, 0, nil)
			want := ""
			for _, line := range test.want {
				want += "[postStart] " + line + end
			}
			if got := text(); got != want {
				t.Errorf("got %d bytes %.300q, want %d bytes %.300q", len(got), got, len(want), want)
			}
		})
	}
}

// TestAttemptsEndTheirLines: what one attempt has begun, the next one does not
// go on with.
func TestAttemptsEndTheirLines(t *testing.T) {
	fifo := newFIFO(t)
	w := mustOpen(t, fifo.stream())
	text := fifo.readAll(t)
	write(w, "first")
	w.EndLine()
	w.EndLine()
	write(w, "second\n")
	w.EndLine()
	wantLost(t, w, 0, nil)
	wantLost(t, w, 0, nil) // and once more is harmless
	if got := text(); got != "[postStart] first\n[postStart] second\n" {
		t.Errorf("got %q", got)
	}
}

// TestNobodyReads: neither the handler's writing nor its end waits, the memory is
// bounded, the count is right, and what is in the FIFO are whole lines.
func TestNobodyReads(t *testing.T) {
	fifo := newFIFO(t)
	w := mustOpen(t, fifo.stream())
	const lines = 100_000
	for i := range lines {
		write(w, fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", 88))) // 10 MB
		if w.mu.Lock(); w.queued > maxQueue+maxLine {
			t.Fatalf("%d bytes are held", w.queued)
		}
		w.mu.Unlock()
	}
	began := time.Now()
	lost, err := w.Close()
	if took := time.Since(began); took > 10*patience { // of a loaded machine
		t.Errorf("the end took %s", took)
	}
	if !errors.Is(err, errSlow) || lost <= 0 {
		t.Errorf("lost %d, %v", lost, err)
	}
	got := strings.SplitAfter(fifo.readAll(t)(), "\n")
	for i, line := range got[:len(got)-1] {
		if want := fmt.Sprintf("[postStart] line %d x", i); !strings.HasPrefix(line, want) || !strings.HasSuffix(line, "x\n") {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if last := got[len(got)-1]; last != "" || int64(len(got)-1)+lost != lines {
		t.Errorf("%d lines are in the FIFO and %d are lost, of %d; then comes %q", len(got)-1, lost, lines, last)
	}
}

// TestReaderComesLate: it learns how many lines it has missed, where they are
// missing.
func TestReaderComesLate(t *testing.T) {
	fifo := newFIFO(t)
	w := mustOpen(t, fifo.stream())
	const lines = 10_000
	for i := range lines {
		write(w, fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", 188)))
	}
	text := fifo.readAll(t)
	waitFor(t, func() bool { // the reader has made room
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.queued == 0
	})
	write(w, "the end\n")
	lost, err := w.Close()
	if lost == 0 || !errors.Is(err, errSlow) {
		t.Errorf("lost %d, %v", lost, err)
	}
	got := text()
	if want := fmt.Sprintf("x\n[postStart] [%d lines dropped]\n[postStart] the end\n", lost); !strings.HasSuffix(got, want) {
		t.Errorf("it ends with %q, want %q", got[max(0, len(got)-200):], want)
	}
	if count := strings.Count(got, "[postStart] line "); int64(count)+lost != lines {
		t.Errorf("%d lines came and %d are lost, of %d", count, lost, lines)
	}
}

func waitFor(t *testing.T, happened func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(30 * time.Second); !happened(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// TestSlowReader is waited for at the end, as long as it reads.
func TestSlowReader(t *testing.T) {
	fifo := newFIFO(t)
	w := mustOpen(t, fifo.stream())
	const lines = 2000
	for i := range lines { // fits into the FIFO and the queue
		write(w, fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", 88)))
	}
	done := make(chan int)
	go func() {
		ticker := time.NewTicker(3 * time.Millisecond)
		defer ticker.Stop()
		count, buffer := 0, make([]byte, 4096)
		for {
			n, err := fifo.reader.Read(buffer)
			if count += strings.Count(string(buffer[:n]), "\n"); err != nil {
				done <- count
				return
			}
			<-ticker.C
		}
	}()
	wantLost(t, w, 0, nil)
	_ = fifo.copier.Close()
	if count := <-done; count != lines {
		t.Errorf("%d lines came, of %d", count, lines)
	}
}

// TestReaderGoes: its end is neither ours nor the shim's (SIGPIPE).
func TestReaderGoes(t *testing.T) {
	fifo := newFIFO(t)
	w := mustOpen(t, fifo.stream())
	write(w, "a\n")
	if line, err := bufio.NewReader(fifo.reader).ReadString('\n'); line != "[postStart] a\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_ = fifo.reader.Close()
	write(w, "b\n", "c\n", "d")
	wantLost(t, w, 3, unix.EPIPE)
}

// TestLinesDoNotMix with those that the container writes in one piece, nor with
// another handler's.
func TestLinesDoNotMix(t *testing.T) {
	fifo := newFIFO(t)
	const lines = 3000
	container, err := os.OpenFile(fifo.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := fifo.readAll(t)
	var writers sync.WaitGroup
	writers.Go(func() {
		defer container.Close()
		for range lines {
			if _, err := io.WriteString(container, "container "+strings.Repeat("c", 300)+"\n"); err != nil {
				t.Error(err)
			}
		}
	})
	var lost [2]int64
	for i := range lost {
		writers.Go(func() {
			w := mustOpen(t, fifo.stream())
			for range lines {
				write(w, strings.Repeat("h", 300), "\n")
			}
			lost[i], _ = w.Close()
		})
	}
	writers.Wait()
	counts := map[string]int64{}
	for line := range strings.Lines(text()) {
		counts[line]++
	}
	handlers := counts["[postStart] "+strings.Repeat("h", 300)+"\n"]
	if counts["container "+strings.Repeat("c", 300)+"\n"] != lines || handlers+lost[0]+lost[1] != 2*lines {
		t.Errorf("lost %v, of %d kinds of lines: %v", lost, len(counts), shortened(counts))
	}
	for line := range counts {
		if !strings.HasPrefix(line, "container c") && !strings.HasPrefix(line, "[postStart] h") && !strings.HasSuffix(line, " lines dropped]\n") {
			t.Fatalf("a mixed line: %q", line)
		}
	}
}

func shortened(counts map[string]int64) map[string]int64 {
	short := map[string]int64{}
	for line, count := range counts {
		short[line[:min(len(line), 30)]] += count
	}
	return short
}

// FuzzWriter: for any output, in any parts, all of it is in lines that a pipe
// takes in one piece, and no character is cut.
func FuzzWriter(f *testing.F) {
	f.Add("a\nbé€😀\n\nc", 3)
	f.Add(strings.Repeat("é", 5000), 1000)
	f.Add(strings.Repeat("\xf0\x9f\x98\x80", 3000)+"\n\xff", 4091)
	f.Add(strings.Repeat("\x82", 9000), 4096)
	f.Fuzz(func(t *testing.T, text string, size int) {
		size = 1 + max(0, size)%8192
		w := &Writer{prefix: "[preStop] ", newline: "\n", wake: make(chan struct{}, 1)}
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			_, _ = w.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		w.EndLine()
		got := ""
		for _, piece := range w.queue {
			if len(piece.text) > maxLine {
				t.Fatalf("a piece of %d bytes", len(piece.text))
			}
			for line := range strings.Lines(string(piece.text)) {
				inner, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), w.prefix)
				if !ok || utf8.ValidString(text) && !utf8.ValidString(inner) {
					t.Fatalf("the line %q", line)
				}
				got += inner
			}
		}
		if w.lost > 0 && len(text) < maxQueue/20 {
			t.Errorf("%d lines are lost", w.lost)
		}
		if want := strings.ReplaceAll(text, "\n", ""); w.lost == 0 && got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
