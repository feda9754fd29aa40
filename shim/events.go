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
	// holdExit: the exit is held too, and what follows it, until releaseExit.
	holdExit bool
	held     []publication
	// pid of the init. It is 0 before the start of a restored container, which has no
	// process until then.
	pid uint32
	// exited is called, without mu, for the TaskExit of the init.
	exited func()
	// ended is closed when both have been seen.
	exitSeen, deleteSeen bool
	// oomSeen: a TaskOOM has passed.
	oomSeen bool
	ended   chan struct{}
}

type holdFrom uint8

const (
	holdNothing holdFrom = iota
	holdFromStart
	holdEverything
	holdUndone // everything, and none of it will be seen
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

// containerID of the container that an event is about, empty where it is about
// none.
func containerID(event events.Event) string {
	if e, ok := event.(interface{ GetContainerID() string }); ok {
		return e.GetContainerID()
	}
	return ""
}

// takes holds an event that is to be held. It is called with mu held.
func (g *gate) takes(p publication) bool {
	if len(g.held) > 0 || g.blocks(p.event) {
		g.held = append(g.held, p)
		return true
	}
	return false
}

// blocks reports whether an event is the first of those that are to be held. It is
// called with mu held.
func (g *gate) blocks(event events.Event) bool {
	_, start := event.(*eventstypes.TaskStart)
	return g.hold >= holdEverything || start && g.hold == holdFromStart || g.holdExit && g.isExit(event)
}

// note looks at an event, and reports whether it is the exit of the container's
// init. It is called with mu held.
func (g *gate) note(event events.Event) (exited bool) {
	if g.hold == holdEverything {
		return false // created looks at what has come meanwhile
	}
	return g.noteEnd(event)
}

func (g *gate) noteEnd(event events.Event) (exited bool) {
	if start, ok := event.(*eventstypes.TaskStart); ok && g.pid == 0 {
		g.pid, g.exitSeen = start.Pid, false
	}
	exited = g.isExit(event)
	if _, oom := event.(*eventstypes.TaskOOM); oom {
		g.oomSeen = true
	}
	_, deletion := event.(*eventstypes.TaskDelete)
	done := g.exitSeen && g.deleteSeen
	g.exitSeen = g.exitSeen || exited
	g.deleteSeen = g.deleteSeen || deletion
	if !done && g.exitSeen && g.deleteSeen {
		close(g.ended)
	}
	return exited
}

// enqueue is called with mu held.
func (t *tap) enqueue(p ...publication) {
	t.queue = append(t.queue, p...)
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// newGate returns a gate that holds everything of a container that is being
// created. exited is called when its init has exited.
func newGate(tap *tap, id string, exited func()) *gate {
	return &gate{tap: tap, id: id, hold: holdEverything, exited: exited, ended: make(chan struct{})}
}

// watch starts with the events of the container.
func (g *gate) watch() {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	g.tap.gates[g.id] = g
}

// created lets the creation be seen. pid is the init's, 0 where it has none yet.
// holdStart says that TaskStart is to be held until release, and holdExit that
// the init's TaskExit is until releaseExit.
func (g *gate) created(pid uint32, holdStart, holdExit bool) {
	hold := holdNothing
	if holdStart {
		hold = holdFromStart
	}
	g.tap.mu.Lock()
	g.pid, g.holdExit = pid, holdExit
	g.exitSeen = pid == 0 // nothing to wait for before it is started
	exited := false
	for _, p := range g.held {
		exited = g.noteEnd(p.event) || exited
	}
	g.letGo(hold) // under the same lock: what comes in between would not be noted
	g.tap.mu.Unlock()
	if exited {
		g.exited()
	}
}

// undone waits for the last events of a creation that has been undone, so that
// forget drops them all.
func (g *gate) undone(pid uint32) {
	g.tap.mu.Lock()
	g.pid = pid
	for _, p := range g.held {
		g.noteEnd(p.event)
	}
	g.hold = holdUndone
	g.tap.mu.Unlock()
	g.awaitEnd()
}

// isExit reports whether the event is the exit of this container's init, and not
// that of an earlier container of the same id, whose events may come late. It is
// called with mu held.
func (g *gate) isExit(event events.Event) bool {
	e, ok := event.(*eventstypes.TaskExit)
	return ok && e.ID == e.ContainerID && (g.pid == 0 || g.pid == e.Pid)
}

// release lets TaskStart go, and what came after it.
func (g *gate) release() {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	g.letGo(holdNothing)
}

// releaseExit lets the init's TaskExit go, and what came after it.
func (g *gate) releaseExit() {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	g.holdExit = false
	g.letGo(g.hold)
}

// oom reports whether the kernel was seen to kill a process of the container for
// want of memory.
func (g *gate) oom() bool {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	return g.oomSeen
}

// letGo is called with mu held.
func (g *gate) letGo(hold holdFrom) {
	g.hold = hold
	for len(g.held) > 0 && !g.blocks(g.held[0].event) {
		g.tap.enqueue(g.held[0])
		g.held = g.held[1:]
	}
}

// forget ends the watch over the container. Events still held are dropped, which
// is what becomes of those of a creation that has been undone.
func (g *gate) forget() {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	g.held = nil
	if g.tap.gates[g.id] == g { // else the id is another container's by now
		delete(g.tap.gates, g.id)
	}
}

// endWait bounds awaitEnd. With the machine's own wait for a handler a Delete
// takes 2 s longer at most (docs/spec.md#delete).
const endWait = 500 * time.Millisecond

// awaitEnd waits until the container's TaskExit and TaskDelete have both been
// queued here: the shim may be told to end as soon as a Delete has been answered,
// and what is queued is published before that. Under the stock shim a client that
// is fast enough loses them.
func (g *gate) awaitEnd() {
	select {
	case <-g.ended:
	case <-time.After(endWait):
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

// flushWait bounds flush: nobody may be listening any more. It is twice what the
// publisher gives an event. Nobody waits for the process of a shim whose
// containers are gone, and its socket is removed before.
const flushWait = 10 * time.Second

// flush waits until what was published before has gone out: the shim ends when
// its shutdown callbacks have, and TaskDelete must not be lost with it.
func (t *tap) flush(ctx context.Context) {
	// The failure of another shutdown callback cancels the context of them all.
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
		log.G(ctx).Error("events are left unpublished")
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
