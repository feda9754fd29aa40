// Package tap keeps the order of a container's events.
//
// A Tap stands between containerd's runc service and the publisher of the shim's
// events. Each container with handlers has a Gate in it, which holds TaskStart while
// the start is held, and TaskExit while onExit runs, each with the events that follow
// it. The events of all other containers pass at once.
package tap

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
)

// Tap is the events.Publisher of the runc service. Publish never waits: one goroutine
// forwards the events of the whole pod, in the order in which they were let go.
type Tap struct {
	publisher shim.Publisher

	mu sync.Mutex
	// gates of the containers that hold or watch their events, by id.
	gates map[string]*Gate
	queue []publication
	// closed: nothing is queued any more, and the forwarder ends once the queue is empty.
	closed bool

	wake chan struct{} // capacity 1: a token says that there is something to look at
	done chan struct{} // closed by the forwarder when it returns
}

// publication is one event on its way.
type publication struct {
	ctx   context.Context
	topic string
	event events.Event
	// passed, if it is not nil, is closed when everything before it has been
	// published. Such a publication has no event.
	passed chan struct{}
}

// New returns a tap that forwards to publisher until Close.
func New(publisher shim.Publisher) *Tap {
	t := &Tap{
		publisher: publisher,
		gates:     make(map[string]*Gate),
		wake:      make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	go t.forward()
	return t
}

// Publish implements events.Publisher. It only queues, and never fails.
func (t *Tap) Publish(ctx context.Context, topic string, event events.Event) error {
	p := publication{ctx: context.WithoutCancel(ctx), topic: topic, event: event}
	t.mu.Lock()
	gate := t.gates[containerID(event)]
	if gate == nil || !gate.takes(p) {
		t.enqueue(p)
	}
	exited := gate != nil && gate.note(event)
	t.mu.Unlock()
	if exited {
		gate.exited()
	}
	return nil
}

// containerID returns the id of the container that an event is about. It is empty for
// other events.
func containerID(event events.Event) string {
	if e, ok := event.(interface{ GetContainerID() string }); ok {
		return e.GetContainerID()
	}
	return ""
}

// enqueue is called with mu held.
func (t *Tap) enqueue(p ...publication) {
	t.queue = append(t.queue, p...)
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// forward publishes until Close, and then what is still queued.
func (t *Tap) forward() {
	defer close(t.done)
	for range t.wake {
		batch, closed := t.take()
		for _, p := range batch {
			if p.passed != nil {
				close(p.passed)
				continue
			}
			if err := t.publisher.Publish(p.ctx, p.topic, p.event); err != nil {
				log.G(p.ctx).WithError(err).WithField("topic", p.topic).Error("cannot publish an event: it is lost")
			}
		}
		if closed {
			return
		}
	}
}

func (t *Tap) take() (batch []publication, closed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	batch, t.queue = t.queue, nil
	return batch, t.closed
}

// flushWait bounds Flush, from its call: containerd may not be listening any more. It is
// twice the time that the publisher gives an event. No client waits for the process of a
// shim whose containers are gone, and its socket is removed before.
const flushWait = 10 * time.Second

// Flush waits until everything that was published before has been forwarded: the shim
// exits when its shutdown callbacks have returned, and TaskDelete must not be lost with
// it.
func (t *Tap) Flush(ctx context.Context) {
	// If another shutdown callback fails, it cancels the context of all of them.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushWait)
	defer cancel()
	passed := make(chan struct{})
	t.mu.Lock()
	closed := t.closed
	t.enqueue(publication{passed: passed})
	t.mu.Unlock()
	if closed {
		return
	}
	select {
	case <-passed:
	case <-ctx.Done():
		log.G(ctx).Error("cannot publish the last events in time: they are lost")
	}
}

// Close publishes what is queued and closes the publisher.
func (t *Tap) Close() error {
	t.mu.Lock()
	t.closed = true
	t.enqueue()
	t.mu.Unlock()
	<-t.done
	return t.publisher.Close()
}
