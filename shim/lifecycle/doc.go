// Package lifecycle decides which request waits, which handler runs, which signal is
// sent, and when. It is pure: it does no I/O, starts no goroutine and reads no clock.
//
// # How to use it
//
// Each container has one Machine, and one goroutine that owns it:
//
//	machine := lifecycle.New(config)
//	for {
//		event := next() // or DeadlineReached, once machine.Deadline() has passed
//		for _, effect := range machine.Step(time.Now(), event) {
//			carryOut(effect)
//		}
//	}
//
// The owner
//
//  1. turns everything that happens (a request, a handler's end, the container's exit)
//     into an Event, and calls Step with the current time;
//  2. carries out the returned effects in their order, before the next Step, without
//     waiting for any of them: what an effect leads to comes back as an event;
//  3. calls Step with a DeadlineReached event when Deadline has passed;
//  4. answers State requests with CREATED instead of RUNNING while StartHeld is true.
//
// # How to read it
//
// stage.go has the stages of a container's life, and what is state beside them;
// docs/lifecycle.md draws them. machine.go dispatches events and deadlines. start.go
// is the way from the start request to its answer, stop.go from the first signal to
// the last, exit.go from the exit to the deletion. budget.go divides the time.
//
// # What it promises
//
// These are the promises of docs/spec.md#promises that are decisions. explore_test.go
// tries all paths to a depth against them: every request is answered exactly once;
// preStop runs at most once, never before the container runs and never after its exit;
// the entrypoint is started only after preStart has succeeded, or failed with
// failurePolicy Ignore, and never after preStart was aborted; onExit runs at most once
// for each start, after the exit, and the exit is released after it; SIGKILL to a running
// process is never held back outside CRI; an accepted stop signal is sent at most once,
// and exactly once unless the container exits, or SIGKILL comes, before it is due; the
// start is released before the exit; at most one handler runs at a time; and with only
// time passing, every held start ends, and outside CRI every pending stop.
package lifecycle
