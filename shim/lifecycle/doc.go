// Package lifecycle decides: which request waits, which handler runs, which
// signal is sent, and when. It is pure. It does no I/O, starts no goroutine and
// reads no clock; it imports errors, fmt and time.
//
// # How to use it
//
// There is one Machine per container, and one goroutine that owns it. The owner
//
//  1. turns what happens (a request, a handler's end, the container's exit, time)
//     into an Event and calls Step with the time now;
//  2. carries out the returned effects in their order, before the next Step, and
//     without waiting for any of them: what an effect leads to comes back as an
//     event;
//  3. calls Step with a DeadlineReached event once Deadline has passed;
//  4. answers State requests with CREATED for RUNNING while StartHeld is true.
//
// # What it promises
//
// These are the promises of docs/spec.md#promises that are decisions, and explore_test.go tries
// all paths to a depth against them: every request is answered exactly once;
// preStop runs at most once, never before the container runs and never after it
// exited; the entrypoint is started once preStart has ended well, and never after it was
// cut short; onExit runs once for each start, after the exit, and the exit is released
// after it; SIGKILL outside CRI is never held back; the asked-for stop signal is
// sent exactly once; the start is released before the exit; at most one handler
// runs at a time; and with only time passing every held Start comes to an end,
// and elsewhere than under CRI every pending stop.
package lifecycle
