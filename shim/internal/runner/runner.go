// Package runner runs the handlers of one container, and sends it the signals that the
// shim decides on.
//
// A Runner is used in this order:
//
//  1. Begin, before the runc service creates the container, and Undo once that is over.
//  2. Prepare, once the init exists, and Park. For a container that is restored from a
//     checkpoint: Restored, and Started after its start.
//  3. Run and Signal, as the machine decides; Unpark as soon as the container is stopped.
//  4. Close.
package runner

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/containerlog"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// stateDir, in the bundle, is the private root of what the handler host prepares.
// containerd removes it with the bundle.
const stateDir = "lifecycle"

// defaultRuntime is the runc service's own default.
const defaultRuntime = "runc"

// Config is what a Create request says of a container's handlers.
type Config struct {
	// Task is the runc service.
	Task taskapi.TTRPCTaskService
	// Host runs exec handlers. It is nil if none of the container's handlers needs it.
	Host       *hookexec.Host
	ID, Bundle string
	Block      *lifecyclev1.Block
	// OutputLimit of a handler, in bytes.
	OutputLimit int
	// LogOutput: the output of handlers that do not say where it goes goes to the
	// container's log.
	LogOutput bool
	// Stdout and Terminal are the request's.
	Stdout   string
	Terminal bool
	// Runtime is the name or path of the OCI runtime, empty for runc. The rest is what the
	// runc service passes to it.
	Runtime                                  string
	SystemdCgroup, NoPivotRoot, NoNewKeyring bool
	// CgroupsPath of the container, which is never empty.
	CgroupsPath string
}

// NeedsHost reports whether a handler needs the handler host: only exec runs a process.
func NeedsHost(block *lifecyclev1.Block) bool {
	return slices.ContainsFunc(oci.Handlers, func(name string) bool { return oci.HandlerOf(block, name).GetExec() != nil })
}

// Runner runs the handlers of one container.
type Runner struct {
	config Config
	// stream is where the container's stdout goes, from Prepare or Restored on.
	stream containerlog.Stream
	// preparation of what exec handlers need, from Begin on; nil if there are none.
	preparation *hookexec.Preparation
	// init is nil until prepare. It is set before the first handler runs.
	init *hookexec.Init
	// pidfd of the init, to signal it if the runtime cannot; -1 until prepare.
	pidfd int
	// kept is what onExit needs of the container; nil until prepare, and without an onExit.
	kept *hookexec.Kept
	// onExit is what the host needs to know for the exec of an onExit, nil without one.
	onExit *wire.OnExit
	// cgroup is the init's HybridCgroup, from prepare on.
	cgroup string
	// background holds the outputs of what handlers leave in the background; nil until
	// prepare.
	background *hookexec.Background
	// parked is the first handler of the start until it runs, nil if it is not parked.
	parked atomic.Pointer[hookexec.Parked]
}

// New returns a runner that holds nothing open yet.
func New(config Config) *Runner {
	config.Runtime = cmp.Or(config.Runtime, defaultRuntime)
	return &Runner{config: config, pidfd: -1}
}

func (r *Runner) root() string { return filepath.Join(r.config.Bundle, stateDir) }

// Begin begins what Prepare finishes. It needs no container yet, so it can go on while
// the runtime creates the container. Undo ends it.
func (r *Runner) Begin(ctx context.Context) {
	if r.preparation != nil || !NeedsHost(r.config.Block) {
		return
	}
	r.preparation = r.config.Host.Prepare(ctx, wire.PrepareRequest{
		Root: r.root(), ID: r.config.ID, Bundle: r.config.Bundle, NoNewKeyring: r.config.NoNewKeyring,
	})
}

// Undo ends what Begin has begun, unless Prepare has finished it.
func (r *Runner) Undo() {
	if r.preparation != nil {
		r.preparation.Cancel()
	}
}

// Prepare is called once, when the runtime has created the container and its init runs no
// code of the container's yet.
func (r *Runner) Prepare(pid int, exited <-chan struct{}) error {
	r.stream = containerlog.Of(r.config.Stdout, r.config.Terminal, pid)
	return r.prepare(pid, exited)
}

// Restored is called instead of Prepare for a container that is restored from a
// checkpoint: it has no process before its start.
func (r *Runner) Restored() {
	r.stream = containerlog.Of(r.config.Stdout, r.config.Terminal, 0)
}

// Started prepares a restored container, whose process exists since its start. It does
// nothing if the container has been prepared.
func (r *Runner) Started(ctx context.Context, pid int, exited <-chan struct{}) error {
	if r.init != nil {
		return nil
	}
	defer r.Undo()
	r.Begin(ctx)
	return r.prepare(pid, exited)
}

func (r *Runner) prepare(pid int, exited <-chan struct{}) error {
	init, err := hookexec.NewInit(pid, exited)
	if err != nil {
		return fmt.Errorf("the container's init: %w", err)
	}
	if r.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return fmt.Errorf("open a pidfd of the container's init: %w", err)
	}
	if r.config.Block.GetOnExit() != nil {
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

// evicted is called when a process that a handler has left in the background may exit by
// SIGPIPE.
func (r *Runner) evicted() {
	log.L.WithField("id", r.config.ID).Warn("cannot keep all outputs open: too many processes that handlers have left in the background hold one, and the oldest is closed")
}

// first returns the handler that the start runs first.
func (r *Runner) first() lifecycle.Kind {
	if r.config.Block.PreStart != nil {
		return lifecycle.PreStart
	}
	return lifecycle.PostStart
}

// Park begins the first handler of the start, if it is an exec, while the container waits
// for its start. The parked handler ends with ctx, and when the container exits first.
// If Park fails nothing is lost: the handler begins when it is due. So does one whose
// output goes to the container's log, which is opened only then.
func (r *Runner) Park(ctx context.Context, exited <-chan struct{}) {
	kind := r.first()
	handler := oci.HandlerOf(r.config.Block, kind.String())
	if handler.GetExec() == nil || r.logs(handler) {
		return
	}
	parked, err := r.exec(handler, r.environment(kind, lifecycle.Effect{})).Park(ctx, exited)
	if err != nil {
		log.G(ctx).WithError(err).WithField("id", r.config.ID).Debug("cannot begin a handler of the start early")
		return
	}
	r.parked.Store(parked)
}

// Unpark ends a parked handler. It may be called at any time, from any goroutine.
func (r *Runner) Unpark() {
	if parked := r.parked.Swap(nil); parked != nil {
		parked.Cancel()
	}
}

// Close is called when nothing is run or signalled any more.
func (r *Runner) Close() {
	_ = unix.Close(r.pidfd) // -1 does no harm
	r.pidfd = -1
	r.background.Close()
	if r.kept != nil {
		r.kept.Close() // a second time does no harm
	}
}
