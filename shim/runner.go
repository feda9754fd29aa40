package shim

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/containerlog"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
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
	stream containerlog.Stream
	// preparation of what exec handlers need, from begin on; nil where there are none.
	preparation *hookexec.Preparation
	// init is nil until prepare; it is set before the first handler runs.
	init *hookexec.Init
	// pidfd of init, to signal it where the runtime cannot; -1 until prepare.
	pidfd int
	// runtime is the name or path of the OCI runtime, which was told the rest.
	runtime                    string
	systemdCgroup, noPivotRoot bool
	cgroupsPath                string // never empty
	// afterlife is empty until prepare, and where there is no onExit.
	afterlife afterlife
	// cgroup is init's HybridCgroup, from prepare on.
	cgroup string
	// background holds the outputs of what handlers leave in the background; nil until
	// prepare.
	background *hookexec.Background
	// parked is the first handler of the start, until it runs; nil where it is not
	// parked, or not any more.
	parked atomic.Pointer[hookexec.Parked]
}

// newRunner refuses what cannot be run before anything is created.
func (s *service) newRunner(r *taskapi.CreateTaskRequest, wanted *oci.Lifecycle, settings options.Settings, noKeyring bool) (*runner, error) {
	if s.hostErr != nil && needsHost(wanted.Block) {
		return nil, &HandlerError{Err: s.hostErr}
	}
	return &runner{
		inner: s.TTRPCTaskService, host: s.host, id: r.ID, bundle: r.Bundle, noKeyring: noKeyring,
		block: wanted.Block, outputLimit: settings.OutputLimit, logOutput: settings.LogOutput, pidfd: -1,
	}, nil
}

// needsHost: only exec handlers run a process.
func needsHost(block *lifecyclev1.Block) bool {
	return slices.ContainsFunc(oci.Handlers, func(name string) bool { return oci.HandlerOf(block, name).GetExec() != nil })
}

func (r *runner) root() string { return filepath.Join(r.bundle, stateDir) }

// begin what prepare finishes. It needs no container yet, and can go on beside its
// creation. It is to be undone.
func (r *runner) begin(ctx context.Context) (err error) {
	if r.preparation != nil || !needsHost(r.block) {
		return nil
	}
	r.preparation, err = r.host.Prepare(ctx, wire.PrepareRequest{
		Root: r.root(), ID: r.id, Bundle: r.bundle, NoNewKeyring: r.noKeyring,
	})
	return err
}

// undo what begin has begun, where prepare has not finished it.
func (r *runner) undo() {
	if r.preparation != nil {
		r.preparation.Cancel()
	}
}

// prepare is called once, when init is there and before a handler runs.
func (r *runner) prepare(pid int, exited <-chan struct{}) error {
	init, err := hookexec.NewInit(pid, exited)
	if err != nil {
		return fmt.Errorf("the container's init: %w", err)
	}
	if r.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return fmt.Errorf("open a pidfd of the container's init: %w", err)
	}
	if r.block.OnExit != nil {
		if err := r.keep(pid); err != nil {
			return err
		}
	}
	r.background = hookexec.NewBackground(exited, r.evicted)
	r.cgroup = hookexec.HybridCgroup(pid)
	if r.preparation != nil {
		if err := r.preparation.Finish(wire.Init{Pid: pid}); err != nil {
			return err
		}
	}
	r.init = init
	return nil
}

// evicted reports that a process which a handler has left in the background can end by
// SIGPIPE.
func (r *runner) evicted() {
	log.L.WithField("id", r.id).Warn("too many processes that handlers have left in the background hold an output: the oldest output is closed")
}

// first is the handler that the start runs first.
func (r *runner) first() lifecycle.Kind {
	if r.block.PreStart != nil {
		return lifecycle.PreStart
	}
	return lifecycle.PostStart
}

// park begins the first handler of the start, where it is an exec, while the
// container waits for its start. It ends with ctx, and when the container exits before.
// Nothing is lost where it fails: the handler is begun when it is due. So is one whose
// output goes to the container's log, which is opened only then.
func (r *runner) park(ctx context.Context, exited <-chan struct{}) {
	kind := r.first()
	handler := oci.HandlerOf(r.block, kind.String())
	if handler.GetExec() == nil || r.logs(handler) {
		return
	}
	parked, err := r.exec(handler, r.environment(kind, lifecycle.Effect{})).Park(ctx, exited)
	if err != nil {
		log.G(ctx).WithError(err).WithField("id", r.id).Debug("begin a handler of the start early")
		return
	}
	r.parked.Store(parked)
}

// unpark implements handlers.
func (r *runner) unpark() {
	if parked := r.parked.Swap(nil); parked != nil {
		parked.Cancel()
	}
}

// started implements handlers: a restored container can be prepared only now.
func (r *runner) started(ctx context.Context, pid int, exited <-chan struct{}) error {
	if r.init != nil {
		return nil
	}
	defer r.undo()
	if err := r.begin(ctx); err != nil {
		return err
	}
	return r.prepare(pid, exited)
}

// close implements handlers.
func (r *runner) close() {
	_ = unix.Close(r.pidfd) // of -1 it is no harm
	r.pidfd = -1
	r.background.Close()
	if r.afterlife.remains != nil {
		r.afterlife.remains.Close() // twice is no harm
	}
}

// run implements handlers.
func (r *runner) run(ctx context.Context, kind lifecycle.Kind, effect lifecycle.Effect, progress *hookexec.Progress) hookexec.Result {
	if r.init == nil {
		return failed(errors.New("the container's state could not be prepared"))
	}
	if kind == lifecycle.OnExit && effect.Kind == lifecycle.RunHandler { // else it is on trial
		return r.runOnExit(ctx, effect, progress)
	}
	if r.paused(ctx) {
		r.unpark()
		return failed(errors.New("the container is paused"))
	}
	env := r.environment(kind, effect)
	if kind == lifecycle.OnExit { // on trial
		env = append(env, containerEnd{result: resultCompleted}.environment()...)
	}
	return r.runJob(ctx, job{kind: kind, env: env, netns: hookexec.NetNS{Pidfd: r.pidfd}, exited: r.init.Ended, progress: progress})
}

// job is one run of a handler.
type job struct {
	kind lifecycle.Kind
	// env is for an exec, netns for what connects.
	env   []string
	netns hookexec.NetNS
	// exited is Init.Ended.
	exited   func(context.Context) bool
	progress *hookexec.Progress
	// after is set for the exec of an onExit.
	after *wire.OnExit
}

// runJob runs what the handler does to its end.
func (r *runner) runJob(ctx context.Context, job job) hookexec.Result {
	handler := oci.HandlerOf(r.block, job.kind.String())
	var log *containerlog.Writer
	if r.logs(handler) {
		log = r.stream.Open(job.kind.String())
		defer log.Close() // after a panic too
	}
	run := hookexec.Run{
		Action:      r.action(job, handler, log),
		RetryPeriod: oci.Seconds(handler.GetRetryPeriodSeconds()),
		Exited:      job.exited,
		Progress:    job.progress,
	}
	result := run.Do(ctx)
	if log != nil {
		result.LostLines, result.LogErr = log.Close()
	}
	return result
}

// logs reports whether a handler's output goes to the container's log too.
func (r *runner) logs(handler *lifecyclev1.Handler) bool {
	return handler.Exec != nil && (handler.Output == oci.OutputLog || handler.Output == "" && r.logOutput)
}

// action is what a handler does. It names exactly one, which is checked.
func (r *runner) action(job job, handler *lifecyclev1.Handler, log *containerlog.Writer) hookexec.Action {
	switch {
	case handler.HttpGet != nil:
		return &hookexec.HTTPGet{NetNS: job.netns, Get: handler.HttpGet, UserAgent: "lifecycle-shim/" + version.Version}
	case handler.TcpSocket != nil:
		return &hookexec.TCPSocket{NetNS: job.netns, Socket: handler.TcpSocket}
	case handler.Sleep != nil:
		return hookexec.Sleep(oci.Seconds(handler.Sleep.Seconds))
	}
	exec := r.exec(handler, job.env)
	exec.Progress = job.progress
	if log != nil { // an interface with a nil in it is not nil
		exec.Log = log
	}
	if job.after != nil {
		return r.afterExec(*exec, job.after)
	}
	if job.kind == r.first() {
		exec.Parked = r.parked.Swap(nil) // whose Attempt uses or ends it
	}
	return exec
}

func (r *runner) exec(handler *lifecyclev1.Handler, env []string) *hookexec.Exec {
	return &hookexec.Exec{
		Host:        r.host,
		Request:     wire.StartRequest{Root: r.root(), ID: r.id, Args: handler.Exec.Command, Env: env},
		Cgroup:      r.cgroup,
		OutputLimit: r.outputLimit,
		Background:  r.background,
	}
}

func failed(err error) hookexec.Result {
	return hookexec.Result{Outcome: hookexec.Failed, Err: err, ExitCode: -1}
}

// environment is what exec handlers get on top of the container's (docs/spec.md#environment).
func (r *runner) environment(kind lifecycle.Kind, effect lifecycle.Effect) []string {
	env := []string{"LIFECYCLE_HANDLER=" + kind.String(), "LIFECYCLE_CONTAINER_ID=" + r.id}
	switch kind {
	case lifecycle.OnExit:
		env = append(env, "LIFECYCLE_DEADLINE="+effect.Limit.UTC().Format(time.RFC3339))
	case lifecycle.PreStop:
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

// signal implements handlers. The runtime does no more for a signal than to send it to the init, so it is sent directly:
// a runc for each container that stops would be most of a drain's work, and while it runs nobody can be told of the
// container's exit. SIGKILL is the runtime's, which looks for what else is to be killed, and for a frozen cgroup.
func (r *runner) signal(ctx context.Context, signal lifecycle.Signal) error {
	if signal.Number == uint32(unix.SIGKILL) || signal.All {
		return r.signalByRuntime(ctx, signal)
	}
	if r.signalInit(signal) == nil {
		return nil
	}
	return r.signalByRuntime(ctx, signal)
}

// signalByRuntime: one that cannot be run must not cost a signal, so the process is signalled directly then.
func (r *runner) signalByRuntime(ctx context.Context, signal lifecycle.Signal) error {
	_, err := r.inner.Kill(ctx, &taskapi.KillRequest{ID: r.id, Signal: signal.Number, All: signal.All})
	if err == nil || errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return nil // sent, or exited by itself
	}
	if direct := r.signalInit(signal); direct != nil {
		return errors.Join(err, direct)
	}
	return nil
}

// signalInit sends it to the container's process. One that has exited by itself needs none.
func (r *runner) signalInit(signal lifecycle.Signal) error {
	err := unix.PidfdSendSignal(r.pidfd, unix.Signal(signal.Number), nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
