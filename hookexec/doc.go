// Package hookexec runs one handler to its end and says how it ended.
//
// Run does that for any Action: attempts, retries, and the forced end when its
// context is cancelled. The cause of the cancellation tells why: ErrTimedOut
// makes the handler TimedOut, everything else Aborted. A process that is stuck in
// the kernel ends when the kernel lets it; whoever cannot wait for it must not.
//
// Exec is the action that runs a command inside the container. Its process is
// started by the handler host (package host, a program of its own) and becomes a
// child of the shim, which reaps every child; so this package never waits for a
// process itself, but takes exit statuses from the shim's reaper.
//
// A handler ends when its own process ends. Background takes over the output of
// processes that it leaves behind, so that they may go on writing.
package hookexec
