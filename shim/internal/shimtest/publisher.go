package shimtest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// Pid of every container's init.
const Pid = 7

// Publisher notes what is published. Its fields are set before it is used.
type Publisher struct {
	// Hang, if it is not nil, makes every Publish wait until it is closed.
	Hang chan struct{}
	// Err and CloseErr are what Publish and Close return.
	Err, CloseErr error

	mu         sync.Mutex
	seen       []string
	started    []*lifecyclev1.HandlerStarted
	finished   []*lifecyclev1.HandlerFinished
	contextErr error
	closed     int
}

// Publish implements events.Publisher.
func (p *Publisher) Publish(ctx context.Context, topic string, event events.Event) error {
	if p.Hang != nil {
		<-p.Hang
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.contextErr = errors.Join(p.contextErr, ctx.Err())
	switch e := event.(type) {
	case *lifecyclev1.HandlerStarted:
		p.seen = append(p.seen, e.ContainerId+" "+e.Handler)
		p.started = append(p.started, e)
	case *lifecyclev1.HandlerFinished:
		p.seen = append(p.seen, e.ContainerId+" "+e.Result)
		p.finished = append(p.finished, e)
	case interface{ GetContainerID() string }:
		p.seen = append(p.seen, e.GetContainerID()+" "+topic)
	default:
		p.seen = append(p.seen, topic)
	}
	return p.Err
}

// Close implements shim.Publisher.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed++
	return p.CloseErr
}

// Seen returns what has been published until now, as "id topic". The shim's own events
// are "id handler" and "id result".
func (p *Publisher) Seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// Started returns the events of handlers that have begun.
func (p *Publisher) Started() []*lifecyclev1.HandlerStarted {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.started)
}

// Finished returns the events of handlers that have ended.
func (p *Publisher) Finished() []*lifecyclev1.HandlerFinished {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.finished)
}

// ContextErr returns why the contexts of published events had ended, nil if none had.
func (p *Publisher) ContextErr() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.contextErr
}

// Closed returns how often it was closed.
func (p *Publisher) Closed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Published returns what has been published once nothing is left to happen, in a bubble
// of synctest.
func (p *Publisher) Published() string {
	synctest.Wait()
	return strings.Join(p.Seen(), ", ")
}

// Expect compares what Published returns.
func (p *Publisher) Expect(t *testing.T, want string) {
	t.Helper()
	if got := p.Published(); got != want {
		t.Errorf("published\n  %q, want\n  %q", got, want)
	}
}

// ExpectAbort is Expect with the end of c1's aborted handler anywhere in between: it has no
// fixed order to what aborted it.
func (p *Publisher) ExpectAbort(t *testing.T, want string) {
	t.Helper()
	const aborted = "c1 Aborted"
	seen := strings.Split(p.Published(), ", ")
	at := slices.Index(seen, aborted)
	if at < 0 {
		t.Fatalf("published %q, without %q", seen, aborted)
	}
	if got := strings.Join(slices.Delete(seen, at, at+1), ", "); got != want {
		t.Errorf("published\n  %q, want\n  %q", got, want)
	}
}

// Emit publishes events, written as "id kind" with the kinds of Event.
func Emit(t *testing.T, publisher events.Publisher, texts ...string) {
	t.Helper()
	for _, text := range texts {
		id, kind, _ := strings.Cut(text, " ")
		if err := publisher.Publish(t.Context(), kind, Event(id, kind)); err != nil {
			t.Errorf("Publish must not fail: %v", err)
		}
	}
}

// Event returns an event of a container by its kind.
func Event(id, kind string) events.Event {
	switch kind {
	case "create":
		return &eventstypes.TaskCreate{ContainerID: id}
	case "start":
		return &eventstypes.TaskStart{ContainerID: id}
	case "exit":
		return &eventstypes.TaskExit{ContainerID: id, ID: id, Pid: Pid}
	case "exec-exit":
		return &eventstypes.TaskExit{ContainerID: id, ID: "exec1"}
	case "delete":
		return &eventstypes.TaskDelete{ContainerID: id}
	case "paused":
		return &eventstypes.TaskPaused{ContainerID: id}
	default:
		return &eventstypes.NamespaceCreate{Name: id}
	}
}
