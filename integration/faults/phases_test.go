package faults

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// phase is a column of the matrix.
type phase struct {
	// name is a situation of docs/lifecycle.md; for what comes before the machine's first, and for a part of one of
	// its, its own name.
	name string
	// about says how the phase is reached and what holds it there.
	about string
	// told are the situations that the status service may show: the name if there are none, "" if it shows no such container.
	told []string
	// reach brings the container there.
	reach func(*cell)
	// stuck phases need a process that not even SIGKILL ends; each lasts no longer than the shim waits for it.
	stuck bool
	// pending: a Create, a Start or a Delete is waited for.
	pending bool
	// host is what a handler host would be doing: "start" and "prepare" can be held, in "make" it waits for the runtime,
	// in "park" it has begun the start's first handler, "" is where none runs.
	host string
	// handlers that the container has; nil for postStart and preStop.
	handlers []string
	// The end, when nothing but time was lost: what the start is answered with (a part of the words, empty for success),
	// how often preStop, TERM and onExit come (any: 0 or 1), and the exit status.
	start                  string
	preStop, terms, onExit int
	status                 uint32
	// unstarted: the entrypoint never runs, and the shim ends what would have become it.
	unstarted bool
}

// any number of times but no more than once: both are right.
const anyTimes = -1

// allHandlers that there are.
var allHandlers = []string{preStart, postStart, preStop, onExit}

// phases, in the order of a life. TestPhases holds them to docs/lifecycle.md.
var phases = []*phase{
	{
		name: "Creating", pending: true, about: "the runtime's create is held: before the machine's first phase", told: []string{"Created", ""},
		host: "prepare", preStop: 1, terms: 1, status: 7,
		reach: func(c *cell) {
			if c.holdsHost || c.sticksHost {
				c.holdHandler("", "prepare")
				c.askCreate(c.front())
				c.host()
				return
			}
			c.hold(c.beside("hold-create"))
			c.askCreate(c.front())
			c.poll("the runtime's create", c.beside("at-hold-create").exists)
		},
	},
	{
		name: "Created", about: "created, and not started", host: "park", preStop: 1, terms: 1, status: 7,
		reach: func(c *cell) { c.create() },
	},
	{
		name: "PreStart", pending: true, about: "preStart waits", host: "start", handlers: allHandlers, preStop: 1, terms: 1, onExit: 1, status: 7,
		reach: func(c *cell) { c.preStarting() },
	},
	{
		name: "PreStart, aborted", pending: true, about: "preStart's time is up, and it is stuck in the kernel: 3 s", stuck: true, host: "start",
		handlers: allHandlers, start: "timed out", onExit: 1, status: 137, unstarted: true,
		reach: func(c *cell) { c.preStarting() },
	},
	{
		name: "Cancelled", pending: true, about: "SIGTERM has come during preStart, and the runtime's kill of what waits to become the entrypoint is held",
		handlers: allHandlers, start: "signal 15 arrived", onExit: 1, status: 137, unstarted: true,
		reach: func(c *cell) {
			c.preStarting()
			c.hold(c.beside("hold-kill"))
			c.must(c.answer(c.askStop(c.front())))
			c.poll("the runtime's kill", c.beside("at-hold-kill").exists)
		},
	},
	{
		name: "Starting", pending: true, host: "park", about: "the runtime's start is held", preStop: 1, terms: 1, status: 7,
		reach: func(c *cell) { c.starting() },
	},
	{
		name: "Starting, stop waits", pending: true, about: "the runtime's start is held, and SIGTERM has come", start: "signal 15 arrived", preStop: 1, terms: 1, status: 7,
		reach: func(c *cell) {
			c.starting()
			c.must(c.answer(c.askStop(c.front())))
		},
	},
	{
		name: "Starting, signal forwarded", pending: true, about: "the runtime's start is held, and SIGKILL has come", start: "signal 9 arrived", status: 137, terms: 0,
		told: []string{"Starting"},
		reach: func(c *cell) {
			c.starting()
			c.poll("the handler host that was begun early", func() bool { return len(c.hosts()) == 1 })
			c.killReq = c.askKill(c.front(), syscall.SIGKILL)
			c.killed = true
			c.poll("the end of that host, which the Kill ends before it waits for the start", func() bool { return len(c.hosts()) == 0 })
		},
	},
	{
		name: "Starting, exited", pending: true, about: "the process has exited, and the runtime's start, held, has not returned: the shim learns of it only then",
		told: []string{"Starting"}, status: 3,
		reach: func(c *cell) {
			c.create()
			c.hold(c.beside("hold-after-start"))
			c.askStart(c.front())
			c.poll("the runtime's start", c.beside("at-hold-after-start").exists)
			c.poll("the entrypoint", c.inside("ready").exists)
			pid := c.init()
			c.must(unix.Kill(pid, unix.SIGUSR1))
			c.poll("the exit", func() bool {
				p, err := harness.ProcessByID(pid)
				return os.IsNotExist(err) || err == nil && p.Ended()
			})
		},
	},
	{
		name: "PostStart", pending: true, about: "postStart waits", host: "start", preStop: 1, terms: 1, status: 7,
		reach: func(c *cell) {
			c.holdHandler(postStart, "start") // its host is started beside the creation
			c.create()
			c.askStart(c.front())
			c.waitHandler(postStart)
		},
	},
	{
		name: "PostStart, aborted", pending: true, about: "postStart's time is up, and it is stuck in the kernel: 3 s", stuck: true, host: "start",
		start: "timed out", preStop: anyTimes, terms: 1, status: 7,
		reach: func(c *cell) {
			c.holdHandler(postStart, "start") // its host is started beside the creation
			c.create()
			c.askStart(c.front())
			c.waitHandler(postStart)
		},
	},
	{
		name: "PostStart, stop waits", pending: true, about: "SIGTERM has come, and postStart is stuck in the kernel: 5 s at most", stuck: true, host: "start",
		start: "signal 15 arrived", preStop: anyTimes, terms: 1, status: 7,
		reach: func(c *cell) {
			c.holdHandler(postStart, "start") // its host is started beside the creation
			c.create()
			c.askStart(c.front())
			c.waitHandler(postStart)
			c.must(c.answer(c.askStop(c.front())))
		},
	},
	{
		name: "Running", about: "started and acknowledged", preStop: 1, terms: 1, status: 7,
		reach: func(c *cell) { c.running() },
	},
	{
		name: "PreStop", about: "preStop waits", host: "start", preStop: 1, terms: 1, status: 7,
		reach: func(c *cell) {
			c.running()
			c.holdHandler(preStop, "start")
			c.must(c.answer(c.askStop(c.front())))
			c.waitHandler(preStop)
		},
	},
	{
		name: "PreStop, aborted", about: "preStop's time is up, and it is stuck in the kernel: 3 s", stuck: true, host: "start",
		preStop: anyTimes, terms: 1, status: 7,
		reach: func(c *cell) {
			c.running()
			c.holdHandler(preStop, "start")
			c.must(c.answer(c.askStop(c.front())))
			c.waitHandler(preStop)
		},
	},
	{
		name: "Stopping", about: "preStop has run, the signal was sent, and the entrypoint is deaf to it", preStop: 1, terms: 1, status: 137,
		reach: func(c *cell) {
			c.running()
			c.must(os.WriteFile(string(c.inside("deaf")), nil, 0o644))
			c.must(c.answer(c.askStop(c.front())))
			c.poll("TERM", func() bool { return c.noted("TERM") == 1 })
		},
	},
	{
		name: "OnExit, waits for a handler", pending: true, about: "SIGKILL has come, and onExit and a Delete wait for a preStop that is stuck in the kernel", stuck: true, host: "start",
		handlers: allHandlers, preStop: anyTimes, onExit: 1, status: 137,
		reach: func(c *cell) {
			c.running()
			c.must(os.WriteFile(string(c.inside("deaf")), nil, 0o644))
			c.holdHandler(preStop, "start")
			c.must(c.answer(c.askStop(c.front())))
			c.waitHandler(preStop)
			c.kill()
			c.wantPhase("OnExit, waits for a handler")
			c.askDelete(c.front())
		},
	},
	{
		name: "OnExit, being made", about: "the entrypoint has ended by itself, and the runtime's create of onExit's container is held: a part of OnExit",
		told: []string{"OnExit"}, host: "make", handlers: allHandlers, onExit: 1, status: 3,
		reach: func(c *cell) {
			c.running()
			c.hold(c.beside("hold-create"))
			c.must(unix.Kill(c.init(), unix.SIGUSR1))
			c.poll("the runtime's create", c.beside("at-hold-create").exists)
		},
	},
	{
		name: "OnExit", about: "the entrypoint has ended by itself, and onExit, in the host's pid namespace, waits", host: "start",
		handlers: allHandlers, onExit: 1, status: 3,
		reach: func(c *cell) { c.completing() },
	},
	{
		name: "OnExit, aborted", about: "onExit's time is up, and it is stuck in the kernel: 3 s", stuck: true, host: "start",
		handlers: allHandlers, onExit: anyTimes, status: 3,
		reach: func(c *cell) { c.completing() },
	},
	{
		name: "Exited", about: "exited, and not deleted", preStop: 1, terms: 1, status: 7,
		reach: func(c *cell) { c.exited() },
	},
	{
		name: "Exited, Delete waits", pending: true, about: "SIGKILL has come, and Delete waits for a preStop that is stuck in the kernel: 1.5 s", stuck: true, host: "start",
		preStop: anyTimes, terms: 0, status: 137,
		reach: func(c *cell) {
			c.running()
			c.must(os.WriteFile(string(c.inside("deaf")), nil, 0o644))
			c.holdHandler(preStop, "start")
			c.must(c.answer(c.askStop(c.front())))
			c.waitHandler(preStop)
			c.kill()
			c.wantPhase("Exited")
			c.wait(137)
			c.askDelete(c.front())
		},
	},
	{
		name: "Deleted", about: "deleted; a neighbour keeps the shim", told: []string{""}, preStop: 1, terms: 1, status: 7,
		reach: func(c *cell) {
			c.exited()
			c.askDelete(c.front())
			c.must(c.answer(c.deleteReq))
		},
	},
}

func (p *phase) isTold() []string {
	if p.told == nil {
		return []string{p.name}
	}
	return p.told
}

// prepare decides what has to be known before the container is made.
func (p *phase) prepare(c *cell) {
	switch p.name {
	case "PreStart, aborted":
		c.ending = preStart
	case "PostStart, aborted":
		c.ending = postStart
	case "PreStop, aborted":
		c.ending = preStop
	case "OnExit, aborted":
		c.ending = onExit
	case "Exited, Delete waits", "OnExit, waits for a handler":
		c.hostPID = true // in its own pid namespace the process exits after all others
	case "OnExit":
		c.hostPID = true // in its own pid namespace what onExit leaves behind ends with it
	case "Deleted":
		c.group = "group"
	}
	if p.stuck {
		c.sticksHost = c.holdsHost
		c.mountStuck()
	}
}

// preStarting: preStart runs, and is held.
func (c *cell) preStarting() {
	c.Helper()
	c.holdHandler(preStart, "start") // its host is started beside the creation
	c.create()
	c.askStart(c.front())
	c.waitHandler(preStart)
}

// completing: the entrypoint has ended by itself, onExit runs and is held.
func (c *cell) completing() {
	c.Helper()
	c.running()
	c.holdHandler(onExit, "start")
	c.must(unix.Kill(c.init(), unix.SIGUSR1))
	c.waitHandler(onExit)
}

// starting: the runtime has been called, and is held.
func (c *cell) starting() {
	c.Helper()
	c.create()
	c.hold(c.beside("hold-start"))
	c.askStart(c.front())
	c.poll("the runtime's start", c.beside("at-hold-start").exists)
}

func (c *cell) running() {
	c.Helper()
	c.create()
	c.askStart(c.front())
	c.must(c.answer(c.startReq))
	c.poll("the entrypoint", c.inside("ready").exists)
}

func (c *cell) exited() {
	c.Helper()
	c.running()
	c.must(c.answer(c.askStop(c.front())))
	c.wait(7)
}

// holdHandler holds the handler of that name that is run next, or its host, which is called with that word.
func (c *cell) holdHandler(kind, verb string) {
	c.Helper()
	switch {
	case c.sticksHost && kind != "":
		c.must(os.WriteFile(string(c.beside("stick-host-"+verb)), nil, 0o644)) // for one run: the host removes it
	case c.holdsHost || c.sticksHost:
		c.hold(c.beside("hold-host-" + verb))
	case c.stuck != nil:
		c.must(os.WriteFile(string(c.inside("stick-"+kind)), nil, 0o644))
	default:
		c.hold(c.inside("hold-" + kind))
	}
}

// waitHandler waits until it runs and is held.
func (c *cell) waitHandler(kind string) {
	c.Helper()
	if c.holdsHost {
		c.host()
		c.poll("the attempt whose host that is", func() bool { return c.attempts(kind) == 1 }) // until then what was begun early may be dropped
	} else {
		c.poll(kind, func() bool { return c.noted(kind) == 1 })
	}
	if c.stuck != nil {
		select {
		case <-c.stuck.Stuck:
		case <-c.Context().Done():
		}
	}
	if kind == postStart {
		c.poll("the entrypoint", c.inside("ready").exists)
	}
}

// attempts of the handler, as the shim reports them.
func (c *cell) attempts(kind string) uint32 {
	status, _ := c.status() // not there before the shim is
	for _, run := range status.GetRuns() {
		if run.Handler == kind {
			return run.Attempts
		}
	}
	return 0
}
