package host

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// libcontainer's init reports errors over a socket that limits a message's size, and
// closes it before execve. An error that is too long, or that occurs after the socket was
// closed, goes to the init's stderr, which is the handler's output; and libcontainer takes
// the closed socket for success. So the init gets an additional pipe for these last words
// (take). A successful execve closes the pipe, and the words are empty.

// maxWords bounds how much of the last words is kept. The longest quote a whole command.
const maxWords = 1 << 20

// words reads the last words of the process that becomes the handler.
type words struct {
	reader *os.File
	text   []byte
	done   chan struct{} // closed at end of file
}

// newWords returns the pipe's write end too. The caller closes it when the process has
// been started.
func newWords() (*words, *os.File, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("open a pipe: %w", err)
	}
	w := &words{reader: reader, done: make(chan struct{})}
	go w.read() // now, because a long error would fill the pipe while libcontainer waits for the process
	return w, writer, nil
}

func (w *words) read() {
	defer close(w.done)
	w.text, _ = io.ReadAll(io.LimitReader(w.reader, maxWords))
	_, _ = io.Copy(io.Discard, w.reader)
}

// wait waits until the process becomes the handler or exits. It returns the last words, or
// an empty string if the process became the handler.
func (w *words) wait() string {
	<-w.done
	_ = w.reader.Close()
	text := strings.TrimSpace(string(w.text))
	// The first line may be libcontainer's own, that it could not write the error to its socket.
	if first, rest, cut := strings.Cut(text, "\n"); cut && strings.HasPrefix(first, "writing sync ") {
		text = rest
	}
	return shorten.Middle(text, shorten.MaxError)
}
