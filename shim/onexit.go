package shim

import (
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

// defaultRuntime is the runc service's own default.
const defaultRuntime = "runc"

// What LIFECYCLE_RESULT says, as systemd's SERVICE_RESULT does.
const (
	resultCompleted   = "completed"
	resultExitCode    = "exit-code"
	resultSignal      = "signal"
	resultOOMKill     = "oom-kill"
	resultStartFailed = "start-failed"
)

// afterlife is what a runner has for an onExit.
type afterlife struct {
	remains *hookexec.Kept
	// after is nil where the onExit is no exec.
	after *wire.OnExit
	// oomSeen reports whether containerd's watcher has seen an OOM kill.
	oomSeen func() bool
	// killed reports whether a SIGKILL was asked for, or sent by the shim.
	killed func() bool
}

// oomKilled reports whether the kernel has killed in the container's cgroup for want
// of memory. With systemd's driver the cgroup may be gone before anybody,
// containerd's watcher too, could read its count: then a SIGKILL that nobody
// has asked the shim for, with an OOM kill around the container, is taken for one.
func (a *afterlife) oomKilled() bool { return oomKilled(a.remains, a.oomSeen, a.killed) }

func oomKilled(counter oomCounter, seen, killed func() bool) bool {
	if kills, known := counter.OOMKills(); known {
		return kills > 0
	}
	return seen() || !killed() && counter.OOMAround()
}

// oomCounter is what is asked of hookexec.Kept.
type oomCounter interface {
	OOMKills() (count int, known bool)
	OOMAround() bool
}

// keep what the onExit of a container needs, while its init is there.
func (r *runner) keep(pid int) error {
	isExec := r.block.OnExit.Exec != nil
	remains, err := hookexec.Keep(pid, isExec)
	if err != nil {
		return err
	}
	r.afterlife.remains = remains
	if !isExec {
		return nil
	}
	path, err := exec.LookPath(r.runtime)
	if err != nil {
		return fmt.Errorf("an onExit with exec is made by the OCI runtime: %w", err)
	}
	r.afterlife.after = &wire.OnExit{
		Shim: os.Getpid(), ID: r.id + "-" + onExitDir, Bundle: r.bundle, Dir: filepath.Join(r.root(), onExitDir), Runtime: path,
		SystemdCgroup: r.systemdCgroup, NoPivotRoot: r.noPivotRoot, NoNewKeyring: r.noKeyring,
		Cgroup: r.cgroupsPath, Namespaces: remains.Paths(),
	}
	return nil
}

// runOnExit runs the onExit of a container that has ended, and lets go of what was
// kept for it.
func (r *runner) runOnExit(ctx context.Context, effect lifecycle.Effect, progress *hookexec.Progress) hookexec.Result {
	remains := r.afterlife.remains
	if remains == nil {
		return failed(errors.New("nothing could be kept of the container"))
	}
	defer remains.Close()
	env := append(r.environment(lifecycle.OnExit, effect), r.end(ctx, effect.NotStarted).environment()...)
	never := func(context.Context) bool { return false } // it has ended before
	return r.runJob(ctx, job{
		kind: lifecycle.OnExit, env: env, netns: remains.Network(), exited: never, progress: progress, after: r.afterlife.after,
	})
}

// containerEnd is how a container ended. Both exitCode and signal are set where it
// cannot be known which of the two it was.
type containerEnd struct {
	result   string
	exitCode int // -1 where there is none
	signal   unix.Signal
}

// end finds out how the container ended. What the runc service tells, 128 and a
// signal's number for a signal, an exit may say too: the kernel knows better.
func (r *runner) end(ctx context.Context, notStarted bool) containerEnd {
	if notStarted {
		return containerEnd{result: resultStartFailed, exitCode: -1}
	}
	oom := r.afterlife.oomKilled
	if status, ok := hookexec.WaitStatus(r.pidfd); ok {
		if status.Signaled() {
			return signalled(status.Signal(), -1, oom)
		}
		return exited(status.ExitStatus())
	}
	state, err := r.inner.State(ctx, &taskapi.StateRequest{ID: r.id})
	if err != nil {
		log.G(ctx).WithError(err).Error("ask how the container has ended")
	}
	const most = 64 // the last real-time signal, signal(7)
	code := int(state.GetExitStatus())
	if code > 128 && code <= 128+most {
		return signalled(unix.Signal(code-128), code, oom)
	}
	return exited(code)
}

func exited(code int) containerEnd {
	if code == 0 {
		return containerEnd{result: resultCompleted}
	}
	return containerEnd{result: resultExitCode, exitCode: code}
}

func signalled(signal unix.Signal, code int, oom func() bool) containerEnd {
	if signal == unix.SIGKILL && oom() {
		return containerEnd{result: resultOOMKill, exitCode: code, signal: signal}
	}
	return containerEnd{result: resultSignal, exitCode: code, signal: signal}
}

// environment is what an exec is told of it.
func (e containerEnd) environment() []string {
	env := []string{"LIFECYCLE_RESULT=" + e.result}
	if e.exitCode >= 0 {
		env = append(env, "LIFECYCLE_EXIT_CODE="+strconv.Itoa(e.exitCode))
	}
	if e.signal != 0 {
		env = append(env, "LIFECYCLE_SIGNAL="+signalName(uint32(e.signal)))
	}
	return env
}

// afterExec is the exec of an onExit.
func (r *runner) afterExec(own hookexec.Exec, after *wire.OnExit) hookexec.Action {
	own.Request.OnExit = after
	own.Cgroup = "" // the runtime makes one for it
	return &hookexec.OnExitExec{Exec: own, CleanFailed: func(err error) {
		log.L.WithError(err).WithField("id", r.id).Error("remove what an onExit has left behind")
	}}
}

// cleanDead removes what the onExit of a shim that has died has left running.
func cleanDead(ctx context.Context, bundle, runtime string) error {
	dir := filepath.Join(bundle, stateDir, onExitDir)
	host, err := hookexec.OpenHost(nil)
	if err != nil {
		return err
	}
	defer host.Close()
	path, err := exec.LookPath(runtime)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deadCleanWait)
	defer cancel()
	return host.CleanAlone(ctx, wire.OnExit{Dir: dir, Runtime: path})
}

// deadCleanWait bounds cleanDead: containerd gives the delete action 5 s
// (io.containerd.timeout.shim.cleanup), and the container itself is removed after it.
const deadCleanWait = 3 * time.Second
