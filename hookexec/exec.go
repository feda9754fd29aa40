package hookexec

import (
	"context"
	"errors"
	"fmt"
	"os"

	runc "github.com/containerd/go-runc"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// Exec runs a command inside a prepared container.
type Exec struct {
	Host *Host
	// Request is sent to the host.
	Request wire.StartRequest
	// Cgroup is the container's HybridCgroup.
	Cgroup string
	// OutputLimit is how many bytes of output are kept.
	OutputLimit int
	// Log receives the output too, unless it is nil.
	Log Log
	// Background takes over the output if the command leaves processes behind that hold
	// it open. If nil, the output is closed when the command exits.
	Background *Background
	// Progress shows the output while the command runs.
	Progress *Progress
	// Parked is the same command, parked earlier, or nil. The first attempt uses it up.
	Parked *Parked
}

// Attempt starts the command and waits for its process, not for its children.
func (e *Exec) Attempt(ctx context.Context) Result {
	if ctx.Err() != nil {
		if e.Parked != nil {
			e.Parked.Cancel()
		}
		return Result{Outcome: lifecycle.Failed, Err: context.Cause(ctx), ExitCode: -1}
	}
	if parked := e.Parked; parked != nil {
		e.Parked = nil
		if result, ok := parked.resume(ctx, e.Progress); ok {
			return result
		}
	}
	channel, files, err := newChannel()
	if err != nil {
		return Result{Outcome: lifecycle.Failed, Err: err, ExitCode: -1}
	}
	run, err := e.begin(channel, files)
	if err != nil {
		return Result{Outcome: lifecycle.Failed, Err: err, ExitCode: -1}
	}
	e.Progress.show(run.output)
	return run.wait(ctx)
}

// begin starts the host and sends it the request. It closes the files always, and the
// channel on error.
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
	sent := make(chan struct{}) // closed when the host has read the request or has exited
	go func() {
		defer close(sent)
		link.send(e.Request)
	}()
	return &execRun{child: host, channel: link, output: collected, sent: sent}, nil
}

// execRun is one execution of the command, from the host's start to the exit of the
// handler's process.
type execRun struct {
	child   *child
	channel *channel
	output  *output
	sent    chan struct{}
	// handler is nil until the host has exited.
	handler *process
	// startErr is why the host could not start the handler.
	startErr error
	// expected is the pid that the host announced, 0 until then. reported means that the
	// reaper reported this process's exit before the host's, with the status early. Exits
	// of other processes are not kept: their number is up to the pod.
	expected int
	early    int
	reported bool
}

// wait waits for the exit of the handler's process, and releases everything. When ctx is
// cancelled it kills the host or the handler, and still waits.
func (r *execRun) wait(ctx context.Context) Result {
	defer r.release()
	done, killed := ctx.Done(), false
	var killErr error
	for {
		select {
		case exit, ok := <-r.child.exits:
			if !ok {
				return r.result(-1, errors.New("the shim's reaper has stopped"))
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

// kill kills the handler's process group, or the host's while the host runs.
func (r *execRun) kill() error {
	if r.handler != nil {
		return r.handler.killGroup()
	}
	return r.child.killGroup()
}

// end is how a run ended: the process's exit status, or an error if it has none.
type end struct {
	status int
	err    error
}

// exited handles an exit, and reports whether the run is over. If the reaper is late, the
// exit may be an earlier process's with the same pid; isReaped asks the pidfd.
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

// noteEarly keeps the handler's exit if it is reported before the host's. The host always
// announces the handler's pid before the shim can reap the handler: a handler becomes the
// shim's child when the host exits, which it does after its answer, and the process of an
// onExit is not started before it is announced. So an exit before the announcement is of
// another process.
func (r *execRun) noteEarly(exit runc.Exit) {
	if r.expected == 0 {
		r.expected = r.channel.announced()
	}
	if exit.Pid == r.expected {
		r.early, r.reported = exit.Status, true
	}
}

// hostLeft finds the handler's process after the host has exited. A host that failed or
// was killed may have started one too; it is killed.
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

// result makes the Result. It includes the output that is still in the pipe.
func (r *execRun) result(status int, err error) Result {
	output, dropped := r.output.finish()
	result := Result{Outcome: lifecycle.Succeeded, ExitCode: status, Output: output, Dropped: dropped}
	if err == nil && status != 0 {
		err = &exitError{status: status}
	}
	if err != nil {
		result.Outcome, result.Err = lifecycle.Failed, err
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
