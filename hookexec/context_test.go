package hookexec

import (
	"context"
	"sync/atomic"
)

// holdingContext counts the contexts that are derived from it and not released yet.
type holdingContext struct {
	context.Context

	held atomic.Int32
}

// AfterFunc is called by package context for each derived context.
func (c *holdingContext) AfterFunc(f func()) (stop func() bool) {
	c.held.Add(1)
	stopped := context.AfterFunc(c.Context, f)
	return func() bool {
		c.held.Add(-1)
		return stopped()
	}
}

// Value hides the embedded context's type: package context would not call AfterFunc for its own types.
func (c *holdingContext) Value(any) any { return nil }
