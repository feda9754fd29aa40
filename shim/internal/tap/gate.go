package tap

import (
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
)

// Gate holds and watches the events of one container.
type Gate struct {
	tap *Tap
	id  string
	// exited is called, without tap.mu, for each TaskExit of the init.
	exited func()

	// Below: guarded by tap.mu.

	// hold says from which event on events are held.
	hold holdFrom
	// holdExit: TaskExit and what follows it are held too, until ReleaseExit.
	holdExit bool
	held     []publication
	// pid of the init. It is 0 before the start of a restored container, which has no
	// process until then.
	pid uint32
	// oomSeen: a TaskOOM has been published.
	oomSeen bool
	// exitSeen and deleteSeen: TaskExit and TaskDelete have been published. ended is closed
	// once both are true.
	exitSeen, deleteSeen bool
	ended                chan struct{}
}

type holdFrom uint8

const (
	holdNothing holdFrom = iota
	holdFromStart
	holdEverything
	holdUndone // everything, and Forget drops all of it
)

// Gate returns a gate for a container whose creation begins now. It holds everything from
// Watch on. exited is called whenever the container's init has exited.
func (t *Tap) Gate(id string, exited func()) *Gate {
	return &Gate{tap: t, id: id, hold: holdEverything, exited: exited, ended: make(chan struct{})}
}

// Watch puts the gate before the container's events.
func (g *Gate) Watch() {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	g.tap.gates[g.id] = g
}

// Created lets the events of the creation go. pid is the init's, 0 if it has none yet.
// With holdStart, TaskStart is held until Release; with holdExit, the init's TaskExit is
// held until ReleaseExit.
func (g *Gate) Created(pid uint32, holdStart, holdExit bool) {
	hold := holdNothing
	if holdStart {
		hold = holdFromStart
	}
	g.tap.mu.Lock()
	g.pid, g.holdExit = pid, holdExit
	g.exitSeen = pid == 0 // without a process there is no exit to wait for
	exited := false
	for _, p := range g.held {
		exited = g.noteEnd(p.event) || exited
	}
	g.letGo(hold) // under the same lock: an event in between would not be noted
	g.tap.mu.Unlock()
	if exited {
		g.exited()
	}
}

// Undone waits for the last events of a creation that has been undone, so that Forget
// drops all of them.
func (g *Gate) Undone(pid uint32) {
	g.tap.mu.Lock()
	g.pid = pid
	for _, p := range g.held {
		g.noteEnd(p.event)
	}
	g.hold = holdUndone
	g.tap.mu.Unlock()
	g.AwaitEnd()
}

// Release lets TaskStart go, and what follows it.
func (g *Gate) Release() {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	g.letGo(holdNothing)
}

// ReleaseExit lets the init's TaskExit go, and what follows it.
func (g *Gate) ReleaseExit() {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	g.holdExit = false
	g.letGo(g.hold)
}

// OOMSeen reports whether containerd's watcher has published an OOM kill of the container.
func (g *Gate) OOMSeen() bool {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	return g.oomSeen
}

// Forget takes the gate away. Events that it still holds are dropped: they are those of a
// creation that has been undone.
func (g *Gate) Forget() {
	g.tap.mu.Lock()
	defer g.tap.mu.Unlock()
	g.held = nil
	if g.tap.gates[g.id] == g { // else another container has the id by now
		delete(g.tap.gates, g.id)
	}
}

// endWait bounds AwaitEnd, from its call. Together with the machine's own wait for a
// handler a Delete takes at most 2 s longer (docs/spec.md#delete).
const endWait = 500 * time.Millisecond

// AwaitEnd waits until the container's TaskExit and TaskDelete have both been published
// to the tap. containerd may shut the shim down as soon as a Delete has returned, and Flush
// forwards only what has been published before that. Under the stock shim a client that
// is fast enough loses them.
func (g *Gate) AwaitEnd() {
	select {
	case <-g.ended:
	case <-time.After(endWait):
	}
}

// takes holds an event, and reports whether it does. It is called with mu held.
func (g *Gate) takes(p publication) bool {
	if len(g.held) > 0 || g.blocks(p.event) {
		g.held = append(g.held, p)
		return true
	}
	return false
}

// blocks reports whether an event is the first one to hold. It is called with mu held.
func (g *Gate) blocks(event events.Event) bool {
	_, start := event.(*eventstypes.TaskStart)
	return g.hold >= holdEverything || start && g.hold == holdFromStart || g.holdExit && g.isExit(event)
}

// letGo is called with mu held.
func (g *Gate) letGo(hold holdFrom) {
	g.hold = hold
	for len(g.held) > 0 && !g.blocks(g.held[0].event) {
		g.tap.enqueue(g.held[0])
		g.held = g.held[1:]
	}
}

// note looks at an event, and reports whether it is the exit of the container's
// init. It is called with mu held.
func (g *Gate) note(event events.Event) (exited bool) {
	if g.hold == holdEverything {
		return false // Created looks at these events, once it knows the init's pid
	}
	return g.noteEnd(event)
}

func (g *Gate) noteEnd(event events.Event) (exited bool) {
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

// isExit reports whether the event is the exit of this container's init, and not
// that of an earlier container with the same id, whose events may come late. It is
// called with mu held.
func (g *Gate) isExit(event events.Event) bool {
	e, ok := event.(*eventstypes.TaskExit)
	return ok && e.ID == e.ContainerID && (g.pid == 0 || g.pid == e.Pid)
}
