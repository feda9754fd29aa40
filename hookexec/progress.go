package hookexec

import (
	"slices"
	"sync"
)

// Progress is what can be seen of a handler while it runs. The zero value is ready. It is
// safe for concurrent use.
type Progress struct {
	mu       sync.Mutex
	attempts int
	output   *output // of the current attempt; nil until it has one
	// left are outputs of earlier attempts that background processes hold.
	left []*leftover
}

// Look returns how many attempts have begun, the tail of the output so far, and how many
// bytes came before it.
func (p *Progress) Look() (attempts int, text string, dropped int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.output != nil {
		text, dropped = p.output.tail.text()
	}
	return p.attempts, text, dropped
}

// Background returns how many outputs are held by background processes that finished
// attempts left behind.
func (p *Progress) Background() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.stillLeft())
}

// stillLeft returns the outputs that background processes hold. The caller holds mu.
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
	p.left = p.stillLeft() // at most maxLeft
	p.attempts, p.output = attempt, nil
}

func (p *Progress) show(output *output) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.output = output
}
