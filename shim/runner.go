package shim

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
	"github.com/lifecycle-shim/lifecycle-shim/shim/stdout"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// stateDir, in the bundle, is the private root of what the handler host
// prepares. containerd removes it with the bundle.
const stateDir = "lifecycle"

// runner runs the handlers of one container.
type runner struct {
	inner       taskapi.TTRPCTaskService
	host        *hookexec.Host
	id          string
	bundle      string
	noKeyring   bool
	block       *lifecyclev1.Block
	outputLimit int
	// logOutput is for handlers that do not say where their output goes.
	logOutput bool
	// stream that the container's stdout goes to, from the creation on.
	stream stdout.Stream
	// init is nil until prepare; it is set before the first handler runs.
	init *hookexec.Init
	// pidfd of init, to signal it where the runtime cannot; -1 until prepare.
	pidfd int
	// cgroup is init's HybridCgroup, from prepare on.
	cgroup string
}

// newRunner refuses what cannot be run before anything is created.
func (s *service) newRunner(r *taskapi.CreateTaskRequest, wanted *oci.Lifecycle, settings settings, noKeyring bool) (*runner, error) {
	if s.hostErr != nil && needsHost(wanted.Block) {
		return nil, &HandlerError{Err: s.hostErr}
	}
	return &runner{
		inner: s.TTRPCTaskService, host: s.host, id: r.ID, bundle: r.Bundle, noKeyring: noKeyring,
		block: wanted.Block, outputLimit: settings.outputLimit, logOutput: settings.logOutput, pidfd: -1,
	}, nil
}

// needsHost: only exec handlers run a process.
func needsHost(block *lifecyclev1.Block) bool {
	return block.PostStart.GetExec() != nil || block.PreStop.GetExec() != nil
}

func (r *runner) root() string { return filepath.Join(r.bundle, stateDir) }

// prepare is called once, when init is there and before a handler runs.
func (r *runner) prepare(ctx context.Context, pid int, exited <-chan struct{}) error {
	init, err := hookexec.NewInit(pid, exited)
	if err != nil {
		return fmt.Errorf("the container's init: %w", err)
	}
	if r.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return fmt.Errorf("open a pidfd of the container's init: %w", err)
	}
	r.init = init
	if !needsHost(r.block) {
		return nil
	}
	r.cgroup = hookexec.HybridCgroup(pid)
	err = r.host.Prepare(ctx, wire.PrepareRequest{
		Root: r.root(), ID: r.id, Bundle: r.bundle, Pid: pid, NoNewKeyring: r.noKeyring,
	})
	if err != nil {
		r.init = nil
	}
	return err
}

// started implements handlers: a restored container can be prepared only now.
func (r *runner) started(ctx context.Context, pid int, exited <-chan struct{}) error {
	if r.init != nil {
		return nil
	}
	return r.prepare(ctx, pid, exited)
}

// close implements handlers.
func (r *runner) close() {
	if r.pidfd >= 0 {
		_ = unix.Close(r.pidfd)
		r.pidfd = -1
	}
}

// run implements handlers.
func (r *runner) run(ctx context.Context, kind lifecycle.Kind, effect lifecycle.Effect, progress *hookexec.Progress) hookexec.Result {
	if r.init == nil {
		return failed(errors.New("the container's state could not be prepared"))
	}
	if r.paused(ctx) {
		return failed(errors.New("the container is paused"))
	}
	handler := r.block.PostStart
	if kind == lifecycle.PreStop {
		handler = r.block.PreStop
	}
	var log *stdout.Writer
	if r.logs(handler) {
		log = r.stream.Open(kind.String())
		defer log.Close() // after a panic too
	}
	run := hookexec.Handler{
		Action:      r.action(kind, handler, effect, progress, log),
		RetryPeriod: time.Duration(handler.GetRetryPeriodSeconds()) * time.Second,
		Exited:      r.init.Ended,
		Progress:    progress,
	}
	result := run.Run(ctx)
	if log != nil {
		result.LostLines, result.LogErr = log.Close()
	}
	return result
}

// logs tells whether a handler's output goes to the container's log too.
func (r *runner) logs(handler *lifecyclev1.Handler) bool {
	return handler.Exec != nil && (handler.Output == oci.OutputLog || handler.Output == "" && r.logOutput)
}

// action is what a handler does. It names exactly one, which is checked.
func (r *runner) action(kind lifecycle.Kind, handler *lifecyclev1.Handler, effect lifecycle.Effect, progress *hookexec.Progress, log *stdout.Writer) hookexec.Action {
	switch netns := (hookexec.NetNS{Pidfd: r.pidfd}); {
	case handler.HttpGet != nil:
		return &hookexec.HTTPGet{NetNS: netns, Get: handler.HttpGet, UserAgent: "lifecycle-shim/" + version.Version}
	case handler.TcpSocket != nil:
		return &hookexec.TCPSocket{NetNS: netns, Socket: handler.TcpSocket}
	case handler.Sleep != nil:
		return hookexec.Sleep(time.Duration(handler.Sleep.Seconds) * time.Second)
	}
	exec := &hookexec.Exec{
		Host: r.host,
		Request: wire.StartRequest{
			Root: r.root(), ID: r.id, Args: handler.Exec.Command, Env: r.environment(kind, effect),
		},
		Cgroup:      r.cgroup,
		OutputLimit: r.outputLimit,
		Progress:    progress,
	}
	if log != nil { // an interface with a nil in it is not nil
		exec.Log = log
	}
	return exec
}

func failed(err error) hookexec.Result {
	return hookexec.Result{Outcome: hookexec.Failed, Err: err, ExitCode: -1}
}

// environment is what exec handlers get on top of the container's (SPEC 3).
func (r *runner) environment(kind lifecycle.Kind, effect lifecycle.Effect) []string {
	env := []string{"LIFECYCLE_HANDLER=" + kind.String(), "LIFECYCLE_CONTAINER_ID=" + r.id}
	if kind == lifecycle.PreStop {
		env = append(env, "LIFECYCLE_SIGNAL="+signalName(effect.Signal.Number))
		if !effect.Deadline.IsZero() {
			env = append(env, "LIFECYCLE_DEADLINE="+effect.Deadline.UTC().Format(time.RFC3339))
		}
	}
	return env
}

func signalName(number uint32) string {
	if name := unix.SignalName(unix.Signal(number)); name != "" {
		return name
	}
	const rtMin, rtMax = 34, 64 // signal(7), as glibc numbers them
	if number >= rtMin && number <= rtMax {
		return fmt.Sprintf("SIGRTMIN+%d", number-rtMin)
	}
	return fmt.Sprint(number)
}

// paused: a handler that is started in a frozen cgroup would hang there.
func (r *runner) paused(ctx context.Context) bool {
	state, err := r.inner.State(ctx, &taskapi.StateRequest{ID: r.id})
	return err == nil && (state.Status == task.Status_PAUSED || state.Status == task.Status_PAUSING)
}

// signal implements handlers. A runtime that cannot be run must not cost a
// signal, so its process is signalled directly then.
func (r *runner) signal(ctx context.Context, signal lifecycle.Signal) error {
	_, err := r.inner.Kill(ctx, &taskapi.KillRequest{ID: r.id, Signal: signal.Number, All: signal.All})
	if err == nil || errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return nil // sent, or exited by itself
	}
	if direct := unix.PidfdSendSignal(r.pidfd, unix.Signal(signal.Number), nil, 0); direct != nil && !errors.Is(direct, unix.ESRCH) {
		return errors.Join(err, direct)
	}
	return nil
}
