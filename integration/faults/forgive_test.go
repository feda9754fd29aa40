package faults

import (
	"fmt"
	"strings"
)

// stop is what a forgiving cell's Fatal panics with.
type stop struct{}

// forgive runs a cell whose shim may end. If it has ended, nothing else that went wrong counts, but everything must be gone.
func (c *cell) forgive(run func()) {
	c.Helper()
	c.forgiving = true
	func() {
		defer func() {
			if value := recover(); value != nil && value != (stop{}) {
				panic(value)
			}
		}()
		run()
	}()
	c.forgiving = false
	c.mu.Lock()
	problems := c.problems
	c.mu.Unlock()
	switch {
	case len(problems) == 0:
	case c.shimLost():
		c.Logf("the shim has ended, so this is forgiven: %s", strings.Join(problems, "; "))
		c.letGo()
		c.finishLost()
	default:
		c.T.Error(strings.Join(problems, "\n"))
	}
}

// shimLost says whether the shim that met the fault has ended, and not by a Delete.
func (c *cell) shimLost() bool {
	c.Helper()
	deleted := c.deleteReq != nil && c.deleteReq.answered() && c.deleteReq.err == nil
	return c.remade || len(c.shims()) == 0 && (!deleted || c.group != "")
}

func (c *cell) problem(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, text)
}

// Error, and the next three, are testing.T's, but for a forgiving cell.
func (c *cell) Error(args ...any) {
	c.Helper()
	if !c.forgiving {
		c.T.Error(args...)
		return
	}
	c.problem(fmt.Sprint(args...))
}

// Errorf is like Error.
func (c *cell) Errorf(format string, args ...any) {
	c.Helper()
	c.Error(fmt.Sprintf(format, args...))
}

// Fatal ends the test, or what forgive runs.
func (c *cell) Fatal(args ...any) {
	c.Helper()
	if !c.forgiving {
		c.T.Fatal(args...)
	}
	c.problem(fmt.Sprint(args...))
	panic(stop{})
}

// Fatalf is like Fatal.
func (c *cell) Fatalf(format string, args ...any) {
	c.Helper()
	c.Fatal(fmt.Sprintf(format, args...))
}
