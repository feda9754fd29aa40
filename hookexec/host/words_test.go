package host

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// FAULTS A6: the last words of the process that becomes the handler, as wait returns them.
func TestWords(t *testing.T) {
	long := "exec: " + strings.Repeat("<", 3<<20) + ": executable file not found in $PATH"
	for name, test := range map[string]struct{ written, begin, end string }{
		"none":                        {"", "", ""},
		"one line":                    {"exec /x: exec format error\n", "exec /x:", "exec format error"},
		"after libcontainer's socket": {"writing sync procError: message too long\nexec: x\n", "exec: x", "exec: x"},
		"of that socket alone":        {"writing sync procError: message too long\n", "writing sync", "too long"},
		"two lines":                   {"exec /x: no such file\nexit status 1\n", "exec /x: no such file\n", "exit status 1"},
		"more than is kept":           {long, "exec: <<<", "<<<"},
	} {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			w, writer, err := newWords()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := writer.WriteString(test.written); err != nil { // it must not block, although a pipe holds less
				t.Fatal(err)
			}
			_ = writer.Close()
			got := w.wait()
			if !strings.HasPrefix(got, test.begin) || !strings.HasSuffix(got, test.end) || (got == "") != (test.written == "") || len(got) > shorten.MaxError {
				t.Errorf("%d bytes: %.80q", len(got), got)
			}
			if most := min(len(test.written), 1<<20); len(w.text) != most {
				t.Errorf("kept %d bytes, want %d", len(w.text), most)
			}
			if after := descriptors(t); !slices.Equal(after, before) {
				t.Errorf("descriptors are %q, before %q", after, before)
			}
		})
	}
}

// TestWordsWithoutDescriptors: newWords returns an error.
func TestWordsWithoutDescriptors(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	lowered := limit
	lowered.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
		t.Fatal(err)
	}
	w, writer, err := newWords()
	if restored := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); restored != nil {
		t.Fatal(restored)
	}
	if !errors.Is(err, unix.EMFILE) || w != nil || writer != nil {
		t.Errorf("got %v, %v, %v", w, writer, err)
	}
}
