package hookexec

import (
	"slices"
	"sync"
)

// Progress shows a handler to those who look on while it runs. The zero value is
// ready. It is safe for concurrent use.
type Progress struct {
	mu       sync.Mutex
	attempts int
	output   *output // of the last attempt that has one
	// left are outputs of earlier attempts that processes in the background hold.
	left []*leftover
}

// Look returns how many attempts have begun, the last part of the output so far,
// and how many bytes came before it.
func (p *Progress) Look() (attempts int, text string, dropped int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.output != nil {
		text, dropped = p.output.tail.text()
	}
	return p.attempts, text, dropped
}

// Background returns how many outputs processes hold that the handler has left in the
// background, once an attempt has ended.
func (p *Progress) Background() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.stillLeft())
}

// stillLeft is called with mu held.
func (p *Progress) stillLeft() []*leftover {
	left := slices.Clone(p.left)
	if p.output != nil {
		left = append(left, p.output.left.Load())
	}
	return slices.DeleteFunc(left, func(l *leftover) bool { return l == nil || !l.open.Load() })
}

func (p *Progress) begin(attempt int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = p.stillLeft() // which is bounded by maxLeft
	p.attempts, p.output = attempt, nil
}

func (p *Progress) show(output *output) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.output = output
}
