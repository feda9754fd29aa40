package hookexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

func TestTailKeepsTheLastBytes(t *testing.T) {
	for name, test := range map[string]struct {
		limit   int
		writes  []string
		want    string
		dropped int64
	}{
		"nothing":                    {4, nil, "", 0},
		"less than the limit":        {4, []string{"abc"}, "abc", 0},
		"the limit":                  {4, []string{"abcd"}, "abcd", 0},
		"one more":                   {4, []string{"abcde"}, "bcde", 1},
		"one more, byte by byte":     {4, strings.Split("abcde", ""), "bcde", 1},
		"twice the limit":            {4, []string{"abcd", "efgh"}, "efgh", 4},
		"more than twice":            {4, []string{"abcd", "efgh", "i"}, "fghi", 5},
		"a long write":               {4, []string{"ab", strings.Repeat("x", 100) + "yz"}, "xxyz", 100},
		"empty writes":               {4, []string{"", "ab", "", "cde"}, "bcde", 1},
		"a limit of 0":               {0, []string{"abc", "d"}, "", 4},
		"a limit of 0, nothing":      {0, nil, "", 0},
		"a limit of 1":               {1, []string{"abc"}, "c", 2},
		"a cut before a letter of 2": {3, []string{"aéb"}, "éb", 1},
		"a cut inside a letter of 2": {2, []string{"aéb"}, "b", 3},
		"a cut inside a letter of 3": {4, []string{"€ab"}, "ab", 3},
		"a cut at its last byte":     {3, []string{"€ab"}, "ab", 3},
		"a cut inside a letter of 4": {4, []string{"😀a"}, "a", 4},
		"a letter in two writes":     {4, []string{"abc\xe2", "\x82\xac"}, "c€", 2},
		"invalid bytes, no cut":      {8, []string{"\x82\xacab"}, "\ufffdab", 0},
		"invalid bytes":              {5, []string{"x\x82\x82\x82\x82\x82"}, "\ufffd", 4},
		"control characters":         {9, []string{"a\x1b[1m\n\tb\x00"}, "a\ufffd[1m\n\tb\ufffd", 0},
	} {
		t.Run(name, func(t *testing.T) {
			tail := tail{limit: test.limit}
			for _, text := range test.writes {
				if n, err := tail.Write([]byte(text)); n != len(text) || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
			}
			if got, dropped := tail.text(); got != test.want || dropped != test.dropped {
				t.Errorf("got %q and %d dropped, want %q and %d", got, dropped, test.want, test.dropped)
			}
		})
	}
}

// TestTailIsBounded: an endless writer costs no memory, with any size of writes.
func TestTailIsBounded(t *testing.T) {
	const limit = 1000
	for _, size := range []int{1, 7, limit, limit + 1, 10 * limit} {
		tail := tail{limit: limit}
		total := 0
		for total < 100*limit {
			n, _ := tail.Write(make([]byte, size))
			total += n
			if len(tail.kept) > 2*limit {
				t.Fatalf("writes of %d: %d bytes are held", size, len(tail.kept))
			}
		}
		if cap(tail.kept) > 8*limit {
			t.Errorf("writes of %d: the capacity is %d bytes", size, cap(tail.kept))
		}
		if _, dropped := tail.text(); dropped != int64(total-limit) {
			t.Errorf("writes of %d: %d of %d dropped", size, dropped, total)
		}
	}
}

// FuzzTail: the text is the end of what was written, and the count of dropped bytes is right.
func FuzzTail(f *testing.F) {
	f.Add("aé€😀", 3, 2)
	f.Add("\x82\x82\x82", 1, 1)
	f.Fuzz(func(t *testing.T, text string, limit, size int) {
		limit, size = max(0, limit%64), max(1, size%64)
		tail := tail{limit: limit}
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			_, _ = tail.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		got, dropped := tail.text()
		if dropped < 0 || dropped > int64(len(text)) || got != printable([]byte(text[dropped:])) {
			t.Errorf("%q: got %q with %d dropped", text, got, dropped)
		}
		if !utf8.ValidString(got) {
			t.Errorf("%q is not UTF-8", got)
		}
	})
}

func collecting(t *testing.T, limit int) (*output, *os.File) {
	t.Helper()
	o, writer, err := newOutput(limit, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = writer.Close() })
	return o, writer
}

// noting is a Log that records what it receives.
type noting struct{ strings.Builder }

func (n *noting) EndLine() { n.WriteString("|") }

// TestOutputGoesToTheLog: all of it, including what is still in the pipe at the end.
func TestOutputGoesToTheLog(t *testing.T) {
	log := &noting{}
	for _, text := range []string{"", strings.Repeat("x", 60_000) + "the end"} {
		o, writer, err := newOutput(10, log, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(writer, text); err != nil {
			t.Fatal(err)
		}
		o.finish() // the writer is still open, as with a background child
		_ = writer.Close()
	}
	if want := "|" + strings.Repeat("x", 60_000) + "the end|"; log.String() != want {
		t.Errorf("got %d bytes, want %d", log.Len(), len(want))
	}
}

func TestOutputOfAProcessThatHasEnded(t *testing.T) {
	o, writer := collecting(t, 10)
	if _, err := io.WriteString(writer, strings.Repeat("x", 100_000)+"the end"); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	if got, dropped := o.finish(); got != "xxxthe end" || dropped != 99_997 {
		t.Errorf("got %q, %d dropped", got, dropped)
	}
}

// TestOutputDoesNotWaitForAHeldPipe: a background child of the handler may hold it open as
// long as the container runs.
func TestOutputDoesNotWaitForAHeldPipe(t *testing.T) {
	o, writer := collecting(t, 100)
	holder := exec.Command("sh", "-c", "echo said before; exec cat")
	holder.Stdout = writer
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { // it has written, and holds the pipe
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", holder.Process.Pid))
		return string(comm) == "cat\n"
	})
	_ = writer.Close()
	began := time.Now()
	got, dropped := o.finish()
	if got != "said before\n" || dropped != 0 {
		t.Errorf("got %q, %d dropped", got, dropped)
	}
	if waited := time.Since(began); waited > 5*time.Second {
		t.Errorf("it waited %s", waited)
	}
	_ = stdin.Close()
	if err := holder.Wait(); err != nil {
		t.Error(err)
	}
}

// TestOutputOfAnEndlessWriter: finish returns, and memory does not grow.
func TestOutputOfAnEndlessWriter(t *testing.T) {
	o, writer := collecting(t, 1000)
	endless := exec.Command("yes", "again")
	endless.Stdout = writer
	if err := endless.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	waitFor(t, func() bool { return written(t, endless.Process.Pid) > 1<<20 })
	ended := make(chan struct{})
	var got string
	var dropped int64
	go func() {
		defer close(ended)
		got, dropped = o.finish()
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it did not end")
	}
	if !strings.Contains(got, "again") || len(got) > 1000 || dropped == 0 {
		t.Errorf("%d bytes kept, %d dropped: %q", len(got), dropped, got)
	}
	// The pipe is closed, so the writer exits, by SIGPIPE.
	if err := endless.Wait(); err == nil {
		t.Error("yes succeeded")
	}
}

// written returns how many bytes a process has written, proc_pid_io(5).
func written(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "wchar: ")
	value, _, _ := strings.Cut(rest, "\n")
	number, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// waitFor polls for a condition that another process causes.
func waitFor(t *testing.T, happened func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !happened() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatal("the condition did not become true")
		}
	}
}

// TestDrainTakesOnlyWhatWaits: bytes that arrive during drain are not read.
func TestDrainTakesOnlyWhatWaits(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	o := &output{tail: tail{limit: 1 << 20}}
	o.drain(fds[0]) // the pipe is empty: it must not block
	for _, size := range []int{1, 4095, 4096, 4097, 60_000} {
		o.tail.kept = nil
		if n, err := unix.Write(fds[1], make([]byte, size)); n != size || err != nil {
			t.Fatal(n, err)
		}
		o.drain(fds[0])
		if len(o.tail.kept) != size {
			t.Errorf("%d of %d bytes were taken", len(o.tail.kept), size)
		}
	}
}

// TestOutputWithoutDescriptors: newOutput returns an error, and starts no goroutine.
func TestOutputWithoutDescriptors(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	lowered := limit
	lowered.Cur = numberAfter(t, 1)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	o, writer, err := newOutput(100, nil, nil)
	_, _, channelErr := newChannel()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if o != nil || writer != nil || !errors.Is(err, unix.EMFILE) {
		t.Errorf("got %v, %v, %v", o, writer, err)
	}
	if channelErr == nil || !strings.Contains(channelErr.Error(), "socketpair control") {
		t.Errorf("the first of two pairs: %v", channelErr)
	}
}

// answering is a Log that has the writer write again whenever something is taken from the pipe.
type answering struct {
	writer int
	more   int // times
	taken  int // bytes
}

func (a *answering) Write(p []byte) (int, error) {
	a.taken += len(p)
	if a.more--; a.more >= 0 {
		_, _ = unix.Write(a.writer, []byte("more"))
	}
	return len(p), nil
}

func (a *answering) EndLine() {}

// TestDrainOfAWriterThatGoesOn takes what waited at its begin.
func TestDrainOfAWriterThatGoesOn(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if _, err := unix.Write(fds[1], []byte("text")); err != nil {
		t.Fatal(err)
	}
	log := &answering{writer: fds[1], more: 100}
	o := &output{tail: tail{limit: 1 << 10}, log: log}
	if o.drain(fds[0]); log.taken != 4 {
		t.Errorf("%d bytes are taken", log.taken)
	}
}
