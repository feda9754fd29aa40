package hookexec

import (
	"context"
	"sync/atomic"
)

// holdingContext counts the contexts that are derived from it and have not been released.
type holdingContext struct {
	context.Context

	held atomic.Int32
}

// AfterFunc is what package context calls for each derived context, if there is such a method.
func (c *holdingContext) AfterFunc(f func()) (stop func() bool) {
	c.held.Add(1)
	stopped := context.AfterFunc(c.Context, f)
	return func() bool {
		c.held.Add(-1)
		return stopped()
	}
}

// Value hides that the context is one of package context's, which would be asked directly.
func (c *holdingContext) Value(any) any { return nil }
