package hookexec

import "sync"

// Progress shows a handler to those who look on while it runs. The zero value is
// ready. It is safe for concurrent use.
type Progress struct {
	mu       sync.Mutex
	attempts int
	output   *output // of the last attempt that has one
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

func (p *Progress) begin(attempt int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempts, p.output = attempt, nil
}

func (p *Progress) show(output *output) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.output = output
}
