package runner

import (
	"context"
	"errors"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/containerlog"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// Run is one run of a handler.
type Run struct {
	Kind lifecycle.Kind
	// Effect says until when it runs and which signal follows.
	Effect lifecycle.Effect
	// Trial: an operator runs it, in a container that is running.
	Trial bool
	// Progress is kept up to date while it runs.
	Progress *hookexec.Progress
	// OOMSeen and Killed say why the container was killed, for onExit: whether containerd's
	// watcher has seen an OOM kill, and whether a SIGKILL was requested, or sent by the
	// shim. They are called after the container's exit.
	OOMSeen, Killed func() bool
}

// Run runs a handler until it has ended or ctx is cancelled.
func (r *Runner) Run(ctx context.Context, run Run) hookexec.Result {
	if r.init == nil {
		return failed(errors.New("the container's state could not be prepared"))
	}
	if run.Kind == lifecycle.OnExit && !run.Trial {
		return r.runOnExit(ctx, run)
	}
	if r.paused(ctx) {
		r.Unpark()
		return failed(errors.New("the container is paused"))
	}
	env := r.environment(run.Kind, run.Effect)
	if run.Kind == lifecycle.OnExit { // on trial
		env = append(env, containerExit{result: resultCompleted}.environment()...)
	}
	return r.execute(ctx, execution{
		kind: run.Kind, env: env, netns: hookexec.NetNS{Pidfd: r.pidfd}, exited: r.init.Ended, progress: run.Progress,
	})
}

// execution is how a handler is executed.
type execution struct {
	kind lifecycle.Kind
	// env is for an exec, netns for what connects.
	env   []string
	netns hookexec.NetNS
	// exited is Init.Ended.
	exited   func(context.Context) bool
	progress *hookexec.Progress
	// onExit is set for the exec of an onExit that runs after the container's exit.
	onExit *wire.OnExit
}

// execute executes a handler, with its retries, until it has ended.
func (r *Runner) execute(ctx context.Context, e execution) hookexec.Result {
	handler := oci.HandlerOf(r.config.Block, e.kind.String())
	var log *containerlog.Writer
	if r.logs(handler) {
		log = r.stream.Open(e.kind.String())
		defer log.Close() // after a panic too
	}
	run := hookexec.Run{
		Action:      r.action(e, handler, log),
		RetryPeriod: oci.Seconds(handler.GetRetryPeriodSeconds()),
		Exited:      e.exited,
		Progress:    e.progress,
	}
	result := run.Do(ctx)
	if log != nil {
		result.LostLines, result.LogErr = log.Close()
	}
	return result
}

// logs reports whether a handler's output goes to the container's log too.
func (r *Runner) logs(handler *lifecyclev1.Handler) bool {
	return handler.Exec != nil && (handler.Output == oci.OutputLog || handler.Output == "" && r.config.LogOutput)
}

// action returns what a handler does. It names exactly one action, which oci has checked.
func (r *Runner) action(e execution, handler *lifecyclev1.Handler, log *containerlog.Writer) hookexec.Action {
	switch {
	case handler.HttpGet != nil:
		return &hookexec.HTTPGet{NetNS: e.netns, Get: handler.HttpGet, UserAgent: "lifecycle-shim/" + version.Version}
	case handler.TcpSocket != nil:
		return &hookexec.TCPSocket{NetNS: e.netns, Socket: handler.TcpSocket}
	case handler.Sleep != nil:
		return hookexec.Sleep(oci.Seconds(handler.Sleep.Seconds))
	}
	exec := r.exec(handler, e.env)
	exec.Progress = e.progress
	if log != nil { // an interface with a nil in it is not nil
		exec.Log = log
	}
	if e.onExit != nil {
		return r.onExitExec(*exec, e.onExit)
	}
	if e.kind == r.first() {
		exec.Parked = r.parked.Swap(nil) // its Attempt uses or ends it
	}
	return exec
}

func (r *Runner) exec(handler *lifecyclev1.Handler, env []string) *hookexec.Exec {
	return &hookexec.Exec{
		Host:        r.config.Host,
		Request:     wire.StartRequest{Root: r.root(), ID: r.config.ID, Args: handler.Exec.Command, Env: env},
		Cgroup:      r.cgroup,
		OutputLimit: r.config.OutputLimit,
		Background:  r.background,
	}
}

func failed(err error) hookexec.Result {
	return hookexec.Result{Outcome: lifecycle.Failed, Err: err, ExitCode: -1}
}

// environment returns what exec handlers get on top of the container's environment
// (docs/spec.md#environment).
func (r *Runner) environment(kind lifecycle.Kind, effect lifecycle.Effect) []string {
	env := []string{"LIFECYCLE_HANDLER=" + kind.String(), "LIFECYCLE_CONTAINER_ID=" + r.config.ID}
	switch kind {
	case lifecycle.OnExit:
		env = append(env, "LIFECYCLE_DEADLINE="+effect.Limit.UTC().Format(time.RFC3339))
	case lifecycle.PreStop:
		env = append(env, "LIFECYCLE_SIGNAL="+signalName(effect.Signal.Number))
		if !effect.Deadline.IsZero() {
			env = append(env, "LIFECYCLE_DEADLINE="+effect.Deadline.UTC().Format(time.RFC3339))
		}
	default: // preStart and postStart get nothing more
	}
	return env
}

// paused reports whether the container is paused: a handler that starts in a frozen
// cgroup would hang there.
func (r *Runner) paused(ctx context.Context) bool {
	state, err := r.config.Task.State(ctx, &taskapi.StateRequest{ID: r.config.ID})
	return err == nil && (state.Status == task.Status_PAUSED || state.Status == task.Status_PAUSING)
}
