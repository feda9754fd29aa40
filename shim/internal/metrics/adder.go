package metrics

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// Adder adds to files in the background. Counts that arrive while it waits for the lock are
// added together. The zero value, with Failed set, is ready to use. Its one goroutine ends
// when nothing is left to add.
type Adder struct {
	// Failed is called with the reason if counts could not be added to a file. They are lost.
	Failed func(path string, err error)

	mu sync.Mutex
	// waiting counts, by file.
	waiting map[string]Counts
	// idle is closed when all counts are added; it is nil while there are none.
	idle chan struct{}
}

// Add adds counts to a file, later. It waits for nothing.
func (a *Adder) Add(path string, counts Counts) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		a.waiting = map[string]Counts{}
	}
	if a.waiting[path] == nil {
		a.waiting[path] = Counts{}
	}
	for series, count := range counts {
		a.waiting[path][series] += count
	}
	if a.idle == nil {
		a.idle = make(chan struct{})
		go a.add()
	}
}

func (a *Adder) add() {
	for {
		a.mu.Lock()
		waiting := a.waiting
		a.waiting = nil
		if len(waiting) == 0 {
			close(a.idle)
			a.idle = nil
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
		for path, counts := range waiting {
			if err := addContained(path, counts); err != nil {
				a.Failed(path, err)
			}
		}
	}
}

// addContained turns a panic into an error: it must not end the shim of a whole pod.
func addContained(path string, counts Counts) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic in Add: %v\n%s", value, debug.Stack())
		}
	}()
	return Add(path, counts)
}

// Flush waits until all counts are added, or ctx ends: another shim may hold the lock
// without limit.
func (a *Adder) Flush(ctx context.Context) {
	a.mu.Lock()
	idle := a.idle
	a.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-ctx.Done():
	}
}
