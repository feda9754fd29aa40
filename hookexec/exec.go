package hookexec

import (
	"context"
	"errors"
	"fmt"
	"os"

	runc "github.com/containerd/go-runc"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// Exec runs a command inside a prepared container.
type Exec struct {
	Host *Host
	// Request as the host takes it.
	Request wire.StartRequest
	// Cgroup is the container's HybridCgroup.
	Cgroup string
	// OutputLimit is how many bytes of output are kept.
	OutputLimit int
	// Log is given the output too, where it is not nil.
	Log Log
	// Background takes over the output when the command leaves processes behind that
	// hold it. If nil, the output is closed then.
	Background *Background
	// Progress is shown the output.
	Progress *Progress
	// Parked is the same command parked earlier, nil where there is none. The first
	// attempt uses it up.
	Parked *Parked
}

// Attempt starts the command and waits for its process, not for its children.
func (e *Exec) Attempt(ctx context.Context) Result {
	if ctx.Err() != nil {
		if e.Parked != nil {
			e.Parked.Cancel()
		}
		return Result{Outcome: Failed, Err: context.Cause(ctx), ExitCode: -1}
	}
	if parked := e.Parked; parked != nil {
		e.Parked = nil
		if result, ok := parked.resume(ctx, e.Progress); ok {
			return result
		}
	}
	channel, files, err := newChannel()
	if err != nil {
		return Result{Outcome: Failed, Err: err, ExitCode: -1}
	}
	run, err := e.begin(channel, files)
	if err != nil {
		return Result{Outcome: Failed, Err: err, ExitCode: -1}
	}
	e.Progress.show(run.output)
	return run.wait(ctx)
}

// begin starts the host and hands it the request. The channel and its host's files
// are closed where it fails, the files always.
func (e *Exec) begin(link *channel, files []*os.File) (*execRun, error) {
	collected, writer, err := newOutput(e.OutputLimit, e.Log, e.Background)
	if err != nil {
		link.close()
		closeAll(files...)
		return nil, err
	}
	cmd := e.Host.command(wire.CommandStart)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = writer, writer, files
	host, err := e.Host.start(cmd, e.Cgroup)
	closeAll(append(files, writer)...)
	if err != nil {
		collected.finish()
		link.close()
		return nil, err
	}
	sent := make(chan struct{}) // closed when the host has read it all, or has gone
	go func() {
		defer close(sent)
		link.send(e.Request)
	}()
	return &execRun{child: host, channel: link, output: collected, sent: sent}, nil
}

// execRun is one process, from the host's start to the process's end.
type execRun struct {
	child   *child
	channel *channel
	output  *output
	sent    chan struct{}
	// handler is nil until the host has left.
	handler *process
	// startErr is why the host could not start it.
	startErr error
	// expected is the pid that the host has announced, 0 until then. early is the
	// status of that process if the reaper reported it before the host's exit, and
	// reported says so. No other exit is kept: the pod decides how many there are.
	expected int
	early    int
	reported bool
}

// wait follows the process to its end and releases everything. When ctx is
// cancelled it ends host and handler, and goes on waiting.
func (r *execRun) wait(ctx context.Context) Result {
	defer r.release()
	done, killed := ctx.Done(), false
	var killErr error
	for {
		select {
		case exit, ok := <-r.child.exits:
			if !ok {
				return r.result(-1, errors.New("the shim's reaper is gone"))
			}
			if end, ended := r.exited(exit, killed); ended {
				return r.result(end.status, errors.Join(end.err, killErr))
			}
		case <-done:
			done, killed = nil, true
			killErr = r.kill()
		}
	}
}

// kill ends whichever of the two runs now.
func (r *execRun) kill() error {
	if r.handler != nil {
		return r.handler.killGroup()
	}
	return r.child.killGroup()
}

// end is how a run ended: the process's status, or why there is none.
type end struct {
	status int
	err    error
}

// exited takes an exit in and reports whether the run is over. A report may be about
// an earlier process with the same pid, if the reaper is late: the pidfd knows.
func (r *execRun) exited(exit runc.Exit, killed bool) (end, bool) {
	switch {
	case r.handler == nil && exit.Pid == r.child.pid && r.child.isReaped():
		return r.hostLeft(killed)
	case r.handler == nil:
		r.noteEarly(exit)
	case exit.Pid == r.handler.pid && r.handler.isReaped():
		return end{exit.Status, r.startErr}, true
	}
	return end{}, false
}

// noteEarly keeps the handler's exit if it is reported before the host's. The host
// announces the handler's pid before the shim can reap the handler: a handler becomes
// the shim's child when the host exits, after its answer, and that of an onExit waits
// for its start until it is announced. So an exit before the announcement is not ours.
func (r *execRun) noteEarly(exit runc.Exit) {
	if r.expected == 0 {
		r.expected = r.channel.announced()
	}
	if exit.Pid == r.expected {
		r.early, r.reported = exit.Status, true
	}
}

// hostLeft finds the handler that the host has left behind. A host that failed
// or was killed may have started one all the same.
func (r *execRun) hostLeft(killed bool) (end, bool) {
	r.child.collect()
	pid, err := r.channel.response()
	r.startErr = err
	handler, err := r.channel.handler(pid)
	if err != nil {
		if r.startErr == nil {
			r.startErr = fmt.Errorf("cannot start: %w", err)
		}
		return end{-1, r.startErr}, true
	}
	r.handler = handler
	if r.startErr != nil || killed {
		err = handler.killGroup()
	}
	early := r.reported && r.expected == handler.pid && handler.isReaped()
	return end{r.early, errors.Join(r.startErr, err)}, early
}

// result judges the end. Output that is still in the pipe belongs to it.
func (r *execRun) result(status int, err error) Result {
	output, dropped := r.output.finish()
	result := Result{Outcome: Succeeded, ExitCode: status, Output: output, Dropped: dropped}
	if err == nil && status != 0 {
		err = &exitError{status: status}
	}
	if err != nil {
		result.Outcome, result.Err = Failed, err
	}
	return result
}

func (r *execRun) release() {
	r.channel.close()
	<-r.sent
	r.child.release()
	if r.handler != nil {
		r.handler.close()
	}
}

var _ Action = (*Exec)(nil)
