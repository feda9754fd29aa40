package installer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/log"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// act does a step. A Failure is about the node; another error is the API server's, and the step is decided again.
func (i *Installer) act(ctx context.Context, step Step, view View) (pause time.Duration, err error) {
	switch step {
	case Rest, Done:
		return i.rest(), i.turns.Release(ctx)
	case Backoff:
		return min(time.Until(i.early), i.rest()), nil
	case TakeTurn:
		return i.takeTurn(ctx)
	case Stop:
		return i.stop(ctx)
	case AwaitRestart:
		return i.awaitRestart(ctx)
	case AwaitPods:
		i.say(ctx, core.EventTypeNormal, ReasonUninstallWaits, "The removal of lifecycle-shim waits: "+i.why+". To do: delete or move them.")
		return i.rest(), i.turns.Release(ctx)
	case Settle:
		i.attempt.Settled = true
		return settleTime, nil
	case Record:
		return 0, i.record(ctx, view)
	case Note, Begin, Label, Unlabel, Clear:
		return 0, i.write(ctx, step, view)
	case Refresh, Install:
		return 0, i.install(ctx, step)
	case Check:
		err := i.engine.check(ctx)
		i.attempt.Checked = err == nil
		return 0, err
	case Uninstall:
		return 0, i.remove(ctx)
	}
	return 0, fmt.Errorf("cannot do step %d, which is not known", step)
}

// rest is the time between two looks while nothing is to be done.
func (i *Installer) rest() time.Duration { return wait.Jitter(pace(i.scale), 0.2) }

func (i *Installer) takeTurn(ctx context.Context) (time.Duration, error) {
	holders, err := i.turns.Try(ctx)
	if err != nil {
		return 0, err
	}
	if !i.turns.Held() {
		var names Names
		for _, holder := range holders {
			names.Add(holder)
		}
		i.why = fmt.Sprintf("%s at work", names)
		return i.rest(), nil
	}
	// The node may have changed while others were at work.
	i.attempt, i.statusUntil = Attempt{Settled: i.attempt.Settled}, time.Time{}
	return 0, nil
}

func (i *Installer) stop(ctx context.Context) (time.Duration, error) {
	i.say(ctx, core.EventTypeWarning, ReasonStopped, fmt.Sprintf(
		"The installation of lifecycle-shim does not begin, because %s (stop after %d). To do: see the Events of these nodes; this node goes on when they are ready or deleted.",
		i.why, i.config.StopAfterFailures))
	i.early = time.Now().Add(i.retry.Step())
	return 0, i.turns.Release(ctx)
}

func (i *Installer) awaitRestart(ctx context.Context) (time.Duration, error) {
	i.say(ctx, core.EventTypeWarning, ReasonRestartNeeded,
		"lifecycle-shim is installed, and containerd has to be restarted before it can be used. To do: restart containerd on this node; running containers stay.")
	i.early = time.Now().Add(i.rest())
	i.statusUntil = time.Time{}
	return 0, i.turns.Release(ctx)
}

// record puts the failure on the Node. Only then is the turn given back, so that the next node sees it.
func (i *Installer) record(ctx context.Context, view View) error {
	text := i.failure.Error()
	reason, ready := ReasonFailed, ReadyFalse
	if view.Uninstall {
		reason, ready = ReasonUninstallFailed, ""
	}
	if err := i.cluster.write(ctx, i.node, change{ready: &ready, failure: &text}); err != nil {
		return fmt.Errorf("%w (it was to say: %s)", err, text)
	}
	pause := i.retry.Step()
	i.event(core.EventTypeWarning, reason, text)
	doing := "install"
	if view.Uninstall {
		doing = "uninstall"
	}
	log.G(ctx).WithField("retryAfter", pause.Round(time.Second).String()).Errorf("cannot %s lifecycle-shim on this node: %s", doing, text)
	i.failure, i.early = nil, time.Now().Add(pause)
	i.statusUntil = time.Time{}
	return i.turns.Release(ctx)
}

// write does the steps that only change the Node.
func (i *Installer) write(ctx context.Context, step Step, view View) error {
	var c change
	switch step {
	case Note:
		c.installed = new(Unchecked)
	case Begin:
		c.ready, c.installed = new(""), new(Unchecked)
	case Label:
		c.ready, c.installed, c.failure, c.untaint = new(ReadyTrue), new(i.config.Version), new(""), view.Node.Tainted
	case Unlabel:
		c.ready = new("")
	default: // Clear
		c.ready, c.installed, c.failure = new(""), new(""), new("")
	}
	if err := i.cluster.write(ctx, i.node, c); err != nil {
		return err
	}
	switch step {
	case Note, Begin:
		i.attempt.Begun = true
	case Unlabel:
		i.attempt.Settled = false
	case Label:
		i.retry, i.attempt = failureBackoff(i.config.Retry), Attempt{}
		i.early = time.Now().Add(i.config.Retry) // if something else takes the label off, or puts the taint on, at once
		i.said = map[string]saying{}
		i.say(ctx, core.EventTypeNormal, ReasonReady, fmt.Sprintf("lifecycle-shim %s is installed, and a container with handlers has run.", i.config.Version))
	case Clear:
		i.retry = failureBackoff(i.config.Retry)
		i.said = map[string]saying{}
		i.say(ctx, core.EventTypeNormal, ReasonUninstalled, "lifecycle-shim is removed from this node.")
	default:
	}
	return nil
}

func (i *Installer) install(ctx context.Context, step Step) error {
	i.attempt.Begun = true
	i.statusUntil = time.Time{}
	answer, err := i.engine.install(ctx, step == Install)
	if err != nil {
		return err
	}
	i.attempt.Installed = answer.Restart != restartNeeded
	i.attempt.RestartNeeded = !i.attempt.Installed
	log.G(ctx).WithField("layout", answer.Layout).WithField("containerd", answer.Containerd.Version).WithField("programs", answer.Programs).
		WithField("changed", answer.Changed).WithField("restart", answer.Restart).Info("installed")
	if i.attempt.RestartNeeded && step == Install && i.engine.restart != byHand {
		return &Failure{Step: "restart", Message: "containerd has not loaded the runtime handler, and was not restarted", Cure: "restart containerd on this node"}
	}
	return nil
}

func (i *Installer) remove(ctx context.Context) error {
	i.statusUntil = time.Time{}
	answer, err := i.engine.uninstall(ctx)
	if err != nil {
		return err
	}
	log.G(ctx).WithField("changed", answer.Changed).WithField("restart", answer.Restart).Info("uninstalled")
	status, err := i.engine.status(ctx)
	if err != nil {
		return err
	}
	if status.Installed {
		return &Failure{Step: "uninstall", Message: "the node still has files after their removal: " + strings.TrimSpace(status.Reason)}
	}
	i.attempt.Uninstalled = true
	return nil
}
