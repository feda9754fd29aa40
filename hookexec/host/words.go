package host

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// libcontainer's init reports an error over a socket whose messages have a limit, and
// closes that socket before execve. An error that is too long for it, or that comes
// after it, goes to the init's stderr, which is the handler's output; libcontainer takes
// the end of the socket for success. So the init gets a pipe for these last words
// (take). execve closes it, and then they are empty.

// maxWords bounds what is kept of them. The longest are a quoted command.
const maxWords = 1 << 20

// words reads what the process that becomes the handler reports.
type words struct {
	reader *os.File
	text   []byte
	done   chan struct{} // closed when the other end is
}

// newWords returns the end for the process too, which the caller closes when the
// process has it.
func newWords() (*words, *os.File, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("open a pipe: %w", err)
	}
	w := &words{reader: reader, done: make(chan struct{})}
	go w.read() // at once: a long error would fill the pipe while libcontainer waits for the process
	return w, writer, nil
}

func (w *words) read() {
	defer close(w.done)
	w.text, _ = io.ReadAll(io.LimitReader(w.reader, maxWords))
	_, _ = io.Copy(io.Discard, w.reader)
}

// wait returns the words when the process has become the handler or has ended, and an
// empty string if it has become the handler.
func (w *words) wait() string {
	<-w.done
	_ = w.reader.Close()
	text := strings.TrimSpace(string(w.text))
	// libcontainer prints first that its socket did not take the error.
	if first, rest, cut := strings.Cut(text, "\n"); cut && strings.HasPrefix(first, "writing sync ") {
		text = rest
	}
	return shorten.Middle(text, shorten.MaxError)
}
