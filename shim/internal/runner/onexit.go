package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// onExitDir, below stateDir, is where the OCI runtime keeps the container of an
// onExit while it runs.
const onExitDir = "onExit"

// Values of LIFECYCLE_RESULT, after systemd's SERVICE_RESULT.
const (
	resultCompleted   = "completed"
	resultExitCode    = "exit-code"
	resultSignal      = "signal"
	resultOOMKill     = "oom-kill"
	resultStartFailed = "start-failed"
)

// oomCounter is hookexec.Kept, which counts OOM kills.
type oomCounter interface {
	OOMKills() (count int, known bool)
	OOMAround() bool
}

// oomKilled reports whether the kernel has killed in the container's cgroup for lack of
// memory. With systemd's driver the cgroup may be removed before the shim or containerd's
// watcher can read its count. A SIGKILL that was not requested from the shim, with an OOM
// kill around the container, is taken for an OOM kill then.
func oomKilled(counter oomCounter, seen, killed func() bool) bool {
	if kills, known := counter.OOMKills(); known {
		return kills > 0
	}
	return seen() || !killed() && counter.OOMAround()
}

// keep keeps what onExit needs of a container, while its init exists.
func (r *Runner) keep(pid int) error {
	isExec := r.config.Block.OnExit.Exec != nil
	kept, err := hookexec.Keep(pid, isExec)
	if err != nil {
		return err
	}
	r.kept = kept
	if !isExec {
		return nil
	}
	path, err := exec.LookPath(r.config.Runtime)
	if err != nil {
		return fmt.Errorf("an onExit with exec is made by the OCI runtime: %w", err)
	}
	r.onExit = &wire.OnExit{
		Shim: os.Getpid(), ID: r.config.ID + "-" + onExitDir, Bundle: r.config.Bundle, Dir: filepath.Join(r.root(), onExitDir), Runtime: path,
		SystemdCgroup: r.config.SystemdCgroup, NoPivotRoot: r.config.NoPivotRoot, NoNewKeyring: r.config.NoNewKeyring,
		Cgroup: r.config.CgroupsPath, Namespaces: kept.Paths(),
	}
	return nil
}

// runOnExit runs the onExit of a container that has exited, and closes what was kept for
// it.
func (r *Runner) runOnExit(ctx context.Context, run Run) hookexec.Result {
	if r.kept == nil {
		return failed(errors.New("nothing could be kept of the container"))
	}
	defer r.kept.Close()
	oom := func() bool { return oomKilled(r.kept, run.OOMSeen, run.Killed) }
	env := append(r.environment(lifecycle.OnExit, run.Effect), r.exit(ctx, run.Effect.NotStarted, oom).environment()...)
	never := func(context.Context) bool { return false } // it has exited before
	return r.execute(ctx, execution{
		kind: lifecycle.OnExit, env: env, netns: r.kept.Network(), exited: never, progress: run.Progress, onExit: r.onExit,
	})
}

// containerExit is how a container exited. Both exitCode and signal are set if it is
// unknown which of the two it was.
type containerExit struct {
	result   string
	exitCode int // -1 if there is none
	signal   unix.Signal
}

// exit finds out how the container exited. The runc service reports 128 and the signal's
// number for a signal, but a process may also exit with such a code: the kernel knows
// better.
func (r *Runner) exit(ctx context.Context, notStarted bool, oom func() bool) containerExit {
	if notStarted {
		return containerExit{result: resultStartFailed, exitCode: -1}
	}
	if status, ok := hookexec.WaitStatus(r.pidfd); ok {
		if status.Signaled() {
			return signalled(status.Signal(), -1, oom)
		}
		return exited(status.ExitStatus())
	}
	state, err := r.config.Task.State(ctx, &taskapi.StateRequest{ID: r.config.ID})
	if err != nil {
		log.G(ctx).WithError(err).Error("cannot find out how the container exited: onExit gets the result completed")
	}
	const most = 64 // the last real-time signal, signal(7)
	code := int(state.GetExitStatus())
	if code > 128 && code <= 128+most {
		return signalled(unix.Signal(code-128), code, oom)
	}
	return exited(code)
}

func exited(code int) containerExit {
	if code == 0 {
		return containerExit{result: resultCompleted}
	}
	return containerExit{result: resultExitCode, exitCode: code}
}

func signalled(signal unix.Signal, code int, oom func() bool) containerExit {
	if signal == unix.SIGKILL && oom() {
		return containerExit{result: resultOOMKill, exitCode: code, signal: signal}
	}
	return containerExit{result: resultSignal, exitCode: code, signal: signal}
}

// environment returns what an exec learns of the exit.
func (e containerExit) environment() []string {
	env := []string{"LIFECYCLE_RESULT=" + e.result}
	if e.exitCode >= 0 {
		env = append(env, "LIFECYCLE_EXIT_CODE="+strconv.Itoa(e.exitCode))
	}
	if e.signal != 0 {
		env = append(env, "LIFECYCLE_SIGNAL="+signalName(uint32(e.signal)))
	}
	return env
}

// onExitExec returns the exec of an onExit.
func (r *Runner) onExitExec(own hookexec.Exec, onExit *wire.OnExit) hookexec.Action {
	own.Request.OnExit = onExit
	own.Cgroup = "" // the runtime makes one for it
	return &hookexec.OnExitExec{Exec: own, CleanFailed: func(err error) {
		log.L.WithError(err).WithField("id", r.config.ID).Error(cannotClean)
	}}
}

const cannotClean = "cannot remove what an onExit has left behind"

// leftoverWait bounds RemoveLeftover: containerd gives the delete action 5 s
// (io.containerd.timeout.shim.cleanup), and the container itself is removed after it.
const leftoverWait = 3 * time.Second

// HasLeftover reports whether the bundle may have an onExit that a dead shim has left
// running.
func HasLeftover(bundle string) bool {
	_, err := os.Stat(filepath.Join(bundle, stateDir, onExitDir))
	return err == nil
}

// RemoveLeftover removes the onExit that a dead shim has left running. bundle is an
// absolute path, and runtime the OCI runtime, empty for runc.
func RemoveLeftover(ctx context.Context, bundle, runtime string) error {
	dir := filepath.Join(bundle, stateDir, onExitDir)
	host, err := hookexec.OpenHost(nil)
	if err != nil {
		return err
	}
	defer host.Close()
	path, err := exec.LookPath(cmp.Or(runtime, defaultRuntime))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leftoverWait)
	defer cancel()
	return host.CleanAlone(ctx, wire.OnExit{Dir: dir, Runtime: path})
}
