package fleet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
)

const (
	// workers ask at the same time, each every workerPause at most.
	workers     = 8
	workerPause = 40 * time.Millisecond
	// patience is how long a client waits for an answer.
	patience = 5 * time.Second
)

// load are requests, each over a connection of its own, that never end. They are not repeated: each failure is one that a user sees.
type load struct {
	stop func()
	done sync.WaitGroup

	mu    sync.Mutex
	tally tally
}

// tally counts requests, and those that failed by the reason.
type tally struct {
	requests int
	failed   map[string]int
}

func (t tally) failures() (sum int) {
	for count := range maps.Values(t.failed) {
		sum += count
	}
	return sum
}

func (t tally) String() string {
	text := fmt.Sprintf("%d of %d failed", t.failures(), t.requests)
	for _, reason := range slices.Sorted(maps.Keys(t.failed)) {
		text += fmt.Sprintf("; %s: %d", reason, t.failed[reason])
	}
	return text
}

// startLoad until end is called: small answers by all workers but one, which has an answer of 3 s under way at all times.
func (b *bench) startLoad(address string) *load {
	ctx, cancel := context.WithCancel(b.Context())
	l := &load{stop: cancel, tally: tally{failed: map[string]int{}}}
	for worker := range workers {
		path, size := "/", 0
		if worker == 0 {
			path, size = fmt.Sprintf("%s?rate=%d", image.DrainPath, image.DrainSize/3), image.DrainSize
		}
		l.done.Go(func() {
			err := b.Network.In(func() error {
				l.work(ctx, address, path, size)
				return nil
			})
			if err != nil {
				b.Error(err)
			}
		})
	}
	b.Cleanup(cancel)
	return l
}

func (l *load) work(ctx context.Context, address, path string, size int) {
	tick := time.NewTicker(workerPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.count(ask(address, path, size))
		}
	}
}

// ask sends one request. It works in the calling thread, which is in the network that it asks from.
func ask(address, path string, size int) error {
	conn, err := (&net.Dialer{Timeout: patience}).Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", path); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode != http.StatusOK:
		return errors.New(response.Status)
	case size > 0 && len(text) != size:
		return fmt.Errorf("%d of %d bytes", len(text), size)
	}
	return nil
}

func (l *load) count(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.requests++
	if err != nil {
		l.tally.failed[reason(err)]++
	}
}

// reason is the error without its addresses.
func reason(err error) string {
	var late net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "no route"
	case errors.As(err, &late) && late.Timeout():
		return fmt.Sprintf("no answer in %v", patience)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	}
	text := err.Error()
	return text[strings.LastIndex(text, ": ")+1:]
}

// since are the requests since the last call.
func (l *load) since() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally
	l.tally = tally{failed: map[string]int{}}
	return t
}

// end returns when the last request has been answered.
func (l *load) end() {
	l.stop()
	l.done.Wait()
}
