package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/doctor"
)

// Limits of a restart. containerd stops within seconds; with thousands of containers it needs longer to start.
const (
	exitWithin  = 60 * time.Second
	startWithin = 2 * time.Minute
	askAgain    = 200 * time.Millisecond
)

func itoa(n int) string { return strconv.Itoa(n) }

// restartFor restarts containerd if it has not loaded the handler. If it does not return, everything is put back.
func (r *Result) restartFor(ctx context.Context, o Options, c *change) *Failure {
	if r.Containerd.PID == 0 {
		return nil // it reads the file when it starts
	}
	if hasLoaded(ctx, r.Containerd.PID, c.plan.Handler) == nil {
		return nil
	}
	r.Restart = RestartNeeded
	if o.Restart == RestartNone {
		return nil
	}
	failure, stopped := r.restart(ctx, o, func(ctx context.Context, pid int) error { return hasLoaded(ctx, pid, c.plan.Handler) })
	if failure == nil {
		return nil
	}
	failure = c.back(failure)
	r.Changed, r.Files = false, []string{}
	if !stopped {
		return failure // containerd runs with the configuration that it has
	}
	if again, _ := r.restart(ctx, o, answers); again != nil {
		failure.Message += "; it does not run with its previous configuration either: " + again.Message
	} else {
		failure.Message += "; it runs with its previous configuration again"
	}
	r.Restart = RestartNotNeeded
	return failure
}

// restartAfterRemoval restarts containerd if it still has the handler.
func (r *Result) restartAfterRemoval(ctx context.Context, o Options) *Failure {
	if r.Containerd.PID == 0 {
		return nil
	}
	live, err := doctor.FindLive(ctx, r.Containerd.PID)
	var cri *doctor.CRI
	if err == nil {
		cri, err = live.CRI(ctx)
	}
	switch {
	case err != nil && !r.Changed:
		return nil
	case err == nil:
		loaded, has := cri.Runtimes[handlerName]
		if !has || !r.Changed && loaded.Type != ourType && filepath.Base(loaded.Path) != shimName {
			return nil
		}
	}
	r.Restart = RestartNeeded
	if o.Restart == RestartNone {
		return nil
	}
	failure, _ := r.restart(ctx, o, answers)
	return failure
}

// answers returns nil if a containerd answers.
func answers(ctx context.Context, pid int) error {
	_, err := doctor.FindLive(ctx, pid)
	return err
}

// hasLoaded returns nil if a containerd uses the handler.
func hasLoaded(ctx context.Context, pid int, want Handler) error {
	live, err := doctor.FindLive(ctx, pid)
	if err != nil {
		return err
	}
	cri, err := live.CRI(ctx)
	if err != nil {
		return err
	}
	if !want.in(cri) {
		return fmt.Errorf("its CRI plugin has not loaded the runtime handler %q", handlerName)
	}
	return nil
}

// checkRestart refuses before anything is changed if containerd will have to be restarted by a systemd that does not run.
func checkRestart(ctx context.Context, o Options, pid int, want Handler) *Failure {
	if o.Restart != RestartSystemd || pid == 0 || systemdRuns() || hasLoaded(ctx, pid, want) == nil {
		return nil
	}
	return fail(StepRestart, restartByCure, "cannot restart containerd: this node does not run systemd")
}

// restartByCure names the option in all three ways to install.
const restartByCure = "if another supervisor starts containerd again after its exit, use --restart-by terminate " +
	"(chart: --set installer.restartBy=terminate; plain manifests: --restart-by=terminate)"

// systemdRuns is sd_booted(3).
func systemdRuns() bool {
	_, err := os.Lstat("/run/systemd/system")
	return err == nil
}

// restart restarts containerd, and waits until ready returns nil for a new process that reads the same configuration.
// stopped is false if it failed before containerd was asked to exit.
func (r *Result) restart(ctx context.Context, o Options, ready func(context.Context, int) error) (_ *Failure, stopped bool) {
	err := r.findCurrent()
	switch {
	case err != nil:
	case o.Restart == RestartSystemd:
		err = restartUnit(ctx, r.unit())
	case r.Containerd.PID != 0: // else its supervisor is about to start it
		err = terminate(r.Containerd.PID)
	}
	if err != nil {
		return fail(StepRestart, "restart it by hand", "cannot restart containerd: %s", err), false
	}
	within := cmp.Or(o.RestartWithin, startWithin)
	pid, err := awaitReturn(ctx, r.Containerd, within, ready)
	if err != nil {
		return fail(StepRestart, "look for the reason in its log: journalctl -u "+r.unit(), "containerd did not return within %s after its restart: %s", within, err), true
	}
	r.Containerd.PID, r.Restart = pid, RestartDone
	return nil, true
}

// findCurrent finds the process that reads the configuration now: it has another pid if it was restarted meanwhile.
func (r *Result) findCurrent() error {
	running, err := doctor.Daemons()
	if err != nil {
		return err
	}
	now := 0
	for _, d := range running {
		if resolve(d.Config) == r.Containerd.Config && (now == 0 || d.PID == r.Containerd.PID) {
			now = d.PID
		}
	}
	r.Containerd.PID = now
	return nil
}

func (r *Result) unit() string {
	if r.Containerd.Unit == "" {
		return defaultUnit
	}
	return r.Containerd.Unit
}

// restartUnit asks systemd.
func restartUnit(ctx context.Context, unit string) error {
	for _, path := range []string{"/usr/bin/systemctl", "/bin/systemctl"} {
		program, err := trust.Program(path)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			_, err = execute(ctx, "systemctl", program, "restart", "--no-block", "--", unit)
		}
		if err != nil {
			return fmt.Errorf("systemctl restart %s: %w", unit, err)
		}
		return nil
	}
	return errors.New("systemctl is not installed: " + restartByCure)
}

// terminate sends SIGTERM to containerd, and waits for its exit.
func terminate(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := trust.Open(pid); err != nil { // of the process that the descriptor holds, or it has exited
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return err
	}
	deadline := time.Now().Add(exitWithin)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("process %d did not exit within %s after SIGTERM", pid, exitWithin)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

// awaitReturn waits for another process that reads the same configuration and is ready.
func awaitReturn(ctx context.Context, was Containerd, within time.Duration, ready func(context.Context, int) error) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	last := errors.New("no containerd reads " + was.Config)
	for {
		running, err := doctor.Daemons()
		if err != nil {
			return 0, err
		}
		for _, d := range running {
			if d.PID == was.PID || resolve(d.Config) != was.Config {
				continue
			}
			if last = ready(ctx, d.PID); last == nil {
				return d.PID, nil
			}
		}
		select {
		case <-ctx.Done():
			return 0, last
		case <-time.After(askAgain):
		}
	}
}
