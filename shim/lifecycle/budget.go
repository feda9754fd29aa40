package lifecycle

import "time"

// How time is shared out (docs/spec.md#start-limit, docs/spec.md#grace-share).
const (
	// abortWait: from the forced end of a handler until the machine goes on
	// without it: it may be stuck in the kernel. On a busy machine (15 processes for
	// each processor) one of 100 took 0.3 s to end, and one of 450 more than 1 s.
	abortWait = 3 * time.Second
	// stopWait: the same for a postStart that a stop finds running, without whose end
	// preStop is left out. What takes long on a busy machine is not to cost it that.
	stopWait = 5 * time.Second
	// leastStopWait is what it has of a short grace period.
	leastStopWait = time.Second
	// deleteWait: from a Delete request until it goes on without the handler.
	deleteWait = 1500 * time.Millisecond
	// signalTail is what is left of a grace period after the stop signal: the
	// kubelet's own minimum (kuberuntime_manager.go, minimumGracePeriodInSeconds).
	signalTail = 2 * time.Second
	// killWait: from SIGKILL until a held Start is answered although the
	// container has not exited.
	killWait = 5 * time.Second
	// killLead: the container is to be gone at the deadline, so SIGKILL is sent
	// a little before it: a runc kill takes 20 to 50 ms.
	killLead = 200 * time.Millisecond
	// criGracePeriod is Kubernetes' default terminationGracePeriodSeconds.
	criGracePeriod = 30 * time.Second
	// answerMargin: from our answer to a start request's deadline, so that the
	// caller gets our words.
	answerMargin = 5 * time.Second
	// onExitTime is what an onExit has that does not say it.
	onExitTime = 30 * time.Second
	// criOnExitTime is what it has at most under CRI. containerd waits for the exit as
	// long as its client does (250 s were tried with 2.4); the kubelet's StopContainer
	// and StopPodSandbox wait 2 minutes, runtimeRequestTimeout's default, less what
	// the stop has taken before.
	criOnExitTime = 100 * time.Second
	// killMargin: from the SIGKILL after a failed postStart to that deadline.
	killMargin = time.Second
)

// startLimit is when a preStart or postStart handler that starts now is ended, and
// whose limit that is.
func (c *Config) startLimit(handler *Handler, now, deadline time.Time) (time.Time, Owner) {
	limit, owner := time.Time{}, NoOwner
	if handler.Timeout > 0 {
		limit, owner = now.Add(handler.Timeout), HandlerTimeout
	}
	if !deadline.IsZero() {
		remaining := deadline.Sub(now)
		if own := deadline.Add(-min(answerMargin, remaining/2)); limit.IsZero() || own.Before(limit) {
			limit, owner = own, StartRequest
		}
	}
	if limit.IsZero() {
		limit, owner = now.Add(c.DefaultPostStartTimeout), PostStartDefault
	}
	return limit, owner
}

// onExitLimit is when the onExit of a container that exits now is ended, and whose
// limit that is. deadline is that of a start that waits for it, zero where none
// does.
func (c *Config) onExitLimit(now, deadline time.Time) (time.Time, Owner) {
	limit, owner := now.Add(onExitTime), OnExitDefault
	if c.OnExit.Timeout > 0 {
		limit, owner = now.Add(c.OnExit.Timeout), HandlerTimeout
	}
	if most := now.Add(criOnExitTime); c.CRI && most.Before(limit) {
		limit, owner = most, CRIExit
	}
	if !deadline.IsZero() {
		if own := answerBy(now, deadline, deadline); own.Before(limit) {
			limit, owner = own.Add(-min(abortWait, own.Sub(now)/2)), StartRequest
		}
	}
	return limit, owner
}

// abortLimit is when a handler of a start, whose end is forced now, is not waited for
// any longer: in time for what else is to come before the request's deadline, zero where
// there is none.
func abortLimit(now, deadline time.Time) time.Time {
	wait := abortWait
	if !deadline.IsZero() {
		wait = min(wait, deadline.Sub(now)/2)
	}
	return now.Add(max(wait, 0))
}

// gracePeriod of a stop, and whose it is.
func (c *Config) gracePeriod() (time.Duration, Owner) {
	switch {
	case c.GracePeriod > 0:
		return c.GracePeriod, BlockGracePeriod
	case c.PodGracePeriod > 0:
		return c.PodGracePeriod, PodGracePeriod
	case c.CRI:
		return criGracePeriod, CRIGracePeriod
	default:
		return c.DefaultGracePeriod, GracePeriodDefault
	}
}

// heldGracePeriod is gracePeriod, less where the start request's deadline would
// come first.
func (c *Config) heldGracePeriod(now, deadline time.Time) (time.Duration, Owner) {
	grace, owner := c.gracePeriod()
	if !deadline.IsZero() {
		remaining := deadline.Sub(now)
		if most := remaining - min(killMargin, remaining/10); most < grace {
			grace, owner = most, StartRequest
		}
	}
	return max(grace, 0), owner
}

// answerBy is when a held Start is answered at the latest, where the container
// should have exited at exitAt.
func answerBy(now, exitAt, deadline time.Time) time.Time {
	by := exitAt.Add(killWait)
	if !deadline.IsZero() {
		remaining := deadline.Sub(now)
		by = earliest(by, deadline.Add(-min(killMargin, remaining/10)/2))
	}
	return by
}

// signalAfter is how much of a grace period preStop may use.
func signalAfter(grace time.Duration) time.Duration {
	return grace - min(signalTail, grace/2)
}

// stopLimit is when a stop goes on although its postStart, whose end is forced now,
// has not ended: in time for what preStop may use then.
func (c *Config) stopLimit(now, deadline time.Time) time.Time {
	grace, _ := c.heldGracePeriod(now, deadline)
	return now.Add(min(stopWait, max(leastStopWait, signalAfter(grace)/2)))
}

// killAfter is when within a grace period SIGKILL is sent.
func killAfter(grace time.Duration) time.Duration {
	return grace - min(killLead, grace/10)
}

// earliest of the times that are set.
func earliest(times ...time.Time) time.Time {
	first := time.Time{}
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
