package installer

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/log"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/installer/turn"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// Installer works on one node. Run is for one goroutine.
type Installer struct {
	config  Config
	cluster *cluster
	engine  engine
	turns   *turn.Turns
	events  record.EventRecorder
	health  *Health

	attempt     Attempt
	failure     *Failure // not yet on the Node
	node        *core.Node
	status      Status
	statusUntil time.Time // status is good enough until then
	early       time.Time // of the next try
	uninstall   bool      // the mark when it was last seen
	scale       int       // installers of the cluster
	why         string    // the step waits, for people
	retry       wait.Backoff
	server      wait.Backoff
	said        map[string]saying
}

// saying is the last Event of a reason.
type saying struct {
	text string
	at   time.Time
}

// Run installs, and keeps the node as it should be, until ctx ends. It then gives its turn back, and leaves the node as it is.
func (i *Installer) Run(ctx context.Context) {
	for ctx.Err() == nil {
		i.health.beat()
		pause, err := i.step(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			pause = i.server.Step()
			log.G(ctx).WithError(err).WithField("retryAfter", pause.Round(time.Millisecond).String()).Warn("cannot do the next step; the node stays as it is")
			i.health.set(false, err.Error())
		default:
			i.server = serverBackoff()
		}
		sleep(ctx, pause)
	}
	if err := i.turns.Release(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("cannot end in order")
	}
}

// sleep returns when the time is over or ctx ends.
func sleep(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// step looks, decides and acts. Its error is the API server's: nothing is known of the node.
func (i *Installer) step(ctx context.Context) (pause time.Duration, err error) {
	view, err := i.observe(ctx)
	if err != nil {
		return 0, err
	}
	next := Next(view)
	log.G(ctx).WithField("step", next.String()).WithField("view", fmt.Sprintf("%+v", view)).Debug("next step")
	i.health.set(next == Rest, i.describe(next))
	pause, err = i.act(ctx, next, view)
	if failure := asFailure(err); failure != nil {
		i.failure, i.statusUntil = failure, time.Time{}
		return 0, nil
	}
	return pause, err
}

// describe a step for /readyz.
func (i *Installer) describe(step Step) string {
	if i.why != "" && (step == Stop || step == TakeTurn || step == AwaitPods || step == Backoff) {
		return step.String() + ": " + i.why
	}
	return step.String()
}

// observe fills a View. What costs something is only looked at if the next step depends on it.
func (i *Installer) observe(ctx context.Context) (View, error) {
	uninstall, scale, err := i.cluster.mark(ctx)
	if err != nil {
		return View{}, err
	}
	if uninstall != i.uninstall {
		log.G(ctx).WithField("uninstall", uninstall).Info("the mark on the DaemonSet has changed")
		i.early, i.attempt, i.retry = time.Time{}, Attempt{}, failureBackoff(i.config.Retry)
	}
	i.uninstall, i.scale = uninstall, scale
	if i.node, err = i.cluster.node(ctx, i.config.Node); err != nil {
		return View{}, err
	}
	turn := i.turns.Held()
	if !turn {
		i.attempt = Attempt{Settled: i.attempt.Settled}
	}
	early := time.Now().Before(i.early)
	if !early && i.failure == nil && !time.Now().Before(i.statusUntil) {
		if err := i.look(ctx); err != nil {
			return View{}, err
		}
	}
	view := View{
		Uninstall: uninstall, Node: i.cluster.keys.view(i.node), Status: i.status, Turn: turn, Failed: i.failure != nil, Early: early,
		ByHand: i.engine.restart == byHand, Attempt: i.attempt,
	}
	return view, i.observeOthers(ctx, &view)
}

// look asks for the node's status.
func (i *Installer) look(ctx context.Context) error {
	status, err := i.engine.status(ctx)
	if failure := asFailure(err); failure != nil {
		i.failure = failure
		return nil
	}
	if err != nil {
		return err
	}
	if status != i.status && !status.Current {
		log.G(ctx).WithField("reason", status.Reason).Info("the node is not as it should be")
	}
	i.status, i.statusUntil = status, time.Now().Add(wait.Jitter(statusEvery, 0.1))
	return nil
}

// observeOthers looks at other nodes, or at pods.
func (i *Installer) observeOthers(ctx context.Context, view *View) error {
	if view.Uninstall {
		if Next(*view) == Done {
			return nil
		}
		pods, err := i.cluster.pods(ctx, i.config.Node)
		view.Pods = pods.Count > 0
		if view.Pods {
			i.why = "on this node: " + podsOf(i.cluster.class, pods)
		}
		return err
	}
	if i.config.StopAfterFailures == 0 || view.Attempt.Begun {
		return nil
	}
	switch Next(*view) {
	case TakeTurn, Note, Refresh, Begin, Install:
	default:
		return nil
	}
	failed, err := i.cluster.failed(ctx, i.config.Node, i.config.StopAfterFailures)
	view.Blocked = failed.Count >= i.config.StopAfterFailures
	if view.Blocked {
		i.why = fmt.Sprintf("the installation has failed on %s", failed)
	}
	return err
}

// say sends an Event on the Node, if it is not what was said last.
func (i *Installer) say(ctx context.Context, kind, reason, text string) {
	last := i.said[reason]
	if last.text == text && time.Since(last.at) < sayEvery {
		return
	}
	i.said[reason] = saying{text, time.Now()}
	i.event(kind, reason, text)
	log.G(ctx).WithField("reason", reason).Info(text)
}

func (i *Installer) event(kind, reason, text string) {
	i.events.Event(reference(i.node), kind, reason, shorten.Middle(shorten.OneLine(text), maxNote))
}
