// Package hookexec runs one handler and returns its result.
//
// Run does that for any Action: it makes the attempts, waits between them, and stops
// when its context is cancelled. The cause of the cancellation decides the outcome:
// ErrTimedOut makes it TimedOut, any other cause Aborted. Do returns only after the
// handler's process has exited, which takes as long as the kernel needs: a process may
// be stuck in the kernel. A caller that cannot wait calls Do in a goroutine.
//
// Exec is the action that runs a command inside the container. The handler host (package
// host, a separate program) starts the command's process. It becomes a child of the shim,
// whose reaper waits for every child. So this package never waits for a process itself,
// but receives exit statuses from the reaper.
//
// A run is over when the handler's own process exits. Background takes over the output
// of processes that the handler leaves behind, so that they can keep writing.
package hookexec
