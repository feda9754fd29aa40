package shim

import (
	"context"
	"sync"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
)

// tap stands between the runc service and the publisher. It holds a container's
// TaskStart and what follows it for as long as its start is held, and tells the
// container's loop of its exit. Publish never waits: one goroutine forwards the
// events of the whole pod, in the order in which they were let go.
type tap struct {
	publisher shim.Publisher

	mu sync.Mutex
	// gates of the containers that hold or watch their events, by id.
	gates map[string]*gate
	queue []publication
	// closed: nothing is queued any more, the forwarder ends when it is done.
	closed bool

	wake chan struct{} // capacity 1: a token says that there is something to look at
	done chan struct{} // closed when the forwarder has ended
}

// publication is one event on its way.
type publication struct {
	ctx   context.Context
	topic string
	event events.Event
	// passed, where not nil, is closed when everything before it has been
	// published; there is no event then.
	passed chan struct{}
}

// gate is one container's.
type gate struct {
	tap *tap
	id  string
	// Below: guarded by tap.mu.

	// hold says from when on events are held.
	hold holdFrom
	held []publication
	// exited is called for each TaskExit of the container's init, not nil.
	exited func()
	// ended is closed when both have been seen.
	exitSeen, deleteSeen bool
	ended                chan struct{}
}

type holdFrom uint8

const (
	holdNothing holdFrom = iota
	holdFromStart
	holdEverything
)

func newTap(publisher shim.Publisher) *tap {
	t := &tap{
		publisher: publisher,
		gates:     make(map[string]*gate),
		wake:      make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	go t.forward()
	return t
}

// Publish implements events.Publisher.
func (t *tap) Publish(ctx context.Context, topic string, event events.Event) error {
	id, kind := describe(event)
	t.mu.Lock()
	gate := t.gates[id]
	p := publication{ctx: context.WithoutCancel(ctx), topic: topic, event: event}
	if gate != nil && (gate.hold == holdEverything || len(gate.held) > 0 || (kind == startEvent && gate.hold == holdFromStart)) {
		gate.held = append(gate.held, p)
	} else {
		t.enqueue(p)
	}
	if gate != nil {
		gate.note(kind)
	}
	t.mu.Unlock()
	if gate != nil && kind == exitEvent {
		gate.exited()
	}
	return nil
}

// eventKind tells the events apart that the tap looks at.
type eventKind uint8

const (
	otherEvent eventKind = iota
	startEvent
	exitEvent // of the init
	deleteEvent
)

// describe returns the container that an event is about, and what it tells.
func describe(event events.Event) (id string, kind eventKind) {
	switch e := event.(type) {
	case *eventstypes.TaskStart:
		return e.ContainerID, startEvent
	case *eventstypes.TaskExit:
		if e.ID == e.ContainerID {
			return e.ContainerID, exitEvent
		}
		return e.ContainerID, otherEvent
	case *eventstypes.TaskDelete:
		return e.ContainerID, deleteEvent
	case interface{ GetContainerID() string }:
		return e.GetContainerID(), otherEvent
	default:
		return "", otherEvent
	}
}

// note is called with mu held.
func (g *gate) note(kind eventKind) {
	done := g.exitSeen && g.deleteSeen
	g.exitSeen = g.exitSeen || kind == exitEvent
	g.deleteSeen = g.deleteSeen || kind == deleteEvent
	if !done && g.exitSeen && g.deleteSeen {
		close(g.ended)
	}
}

// enqueue is called with mu held.
func (t *tap) enqueue(p ...publication) {
	t.queue = append(t.queue, p...)
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// open starts to hold everything of a container that is being created. exited is
// called for each exit of its init.
func (t *tap) open(id string, exited func()) *gate {
	g := &gate{tap: t, id: id, hold: holdEverything, exited: exited, ended: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gates[id] = g
	return g
}

// created lets the creation be seen. holdStart says that TaskStart is to be
// held until release.
func (g *gate) created(holdStart bool) {
	hold := holdNothing
	if holdStart {
		hold = holdFromStart
	}
	g.letGo(hold)
}

// release lets TaskStart go, and what came after it.
func (g *gate) release() { g.letGo(holdNothing) }

func (g *gate) letGo(hold holdFrom) {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	g.hold = hold
	g.tap.enqueue(g.held...)
	g.held = nil
}

// forget ends the watch over the container. Events still held are dropped, which
// is what becomes of those of a creation that has been undone.
func (g *gate) forget() {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	if g.tap.gates[g.id] == g { // else the id is another container's by now
		delete(g.tap.gates, g.id)
	}
}

// endWait bounds awaitEnd.
const endWait = time.Second

// awaitEnd waits until the container's TaskExit and TaskDelete have both been
// queued here: the shim may be told to end as soon as a Delete has been answered,
// and what is queued is published before that. Under the stock shim a client that
// is fast enough loses them.
func (g *gate) awaitEnd() {
	timer := time.NewTimer(endWait)
	defer timer.Stop()
	select {
	case <-g.ended:
	case <-timer.C:
	}
}

// forward publishes until Close, and then what is left.
func (t *tap) forward() {
	defer close(t.done)
	for range t.wake {
		batch, closed := t.take()
		for _, p := range batch {
			if p.passed != nil {
				close(p.passed)
				continue
			}
			if err := t.publisher.Publish(p.ctx, p.topic, p.event); err != nil {
				log.G(p.ctx).WithError(err).WithField("topic", p.topic).Error("publish event")
			}
		}
		if closed {
			return
		}
	}
}

func (t *tap) take() (batch []publication, closed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	batch, t.queue = t.queue, nil
	return batch, t.closed
}

// flushWait bounds flush: nobody may be listening any more.
const flushWait = 2 * time.Second

// flush waits until what was published before has gone out: the shim ends when
// its shutdown callbacks have, and TaskDelete must not be lost with it.
func (t *tap) flush(ctx context.Context) error {
	// The failure of another shutdown callback cancels the context of them all.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushWait)
	defer cancel()
	passed := make(chan struct{})
	t.mu.Lock()
	closed := t.closed
	t.enqueue(publication{passed: passed})
	t.mu.Unlock()
	if closed {
		return nil
	}
	select {
	case <-passed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close publishes what is queued and closes the publisher.
func (t *tap) Close() error {
	t.mu.Lock()
	t.closed = true
	t.enqueue()
	t.mu.Unlock()
	<-t.done
	return t.publisher.Close()
}
