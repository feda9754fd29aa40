package lifecycle

import "time"

// How time is divided: docs/spec.md#start-limit, docs/spec.md#grace-share. Each is a
// duration from an event until the machine continues without what it waits for.
const (
	// abortWait: from the abort of a handler until the machine does not wait for its
	// end any longer. The process may be stuck in the kernel. On a busy machine (15
	// processes per processor) one of 100 took 0.3 s to end, and one of 450 more than 1 s.
	abortWait = 3 * time.Second
	// stopWait: the same for a postStart that a stop aborts. It is longer, because
	// preStop does not run if postStart has not ended by then.
	stopWait = 5 * time.Second
	// leastStopWait is the least of stopWait if the grace period is short.
	leastStopWait = time.Second
	// deleteWait: from a Delete request until it is forwarded although a handler has
	// not ended.
	deleteWait = 1500 * time.Millisecond
	// signalTail: from the stop signal to the end of the grace period. It is the
	// kubelet's own minimum (kuberuntime_manager.go, minimumGracePeriodInSeconds).
	signalTail = 2 * time.Second
	// killWait: from SIGKILL until a held start is answered although the container has
	// not exited.
	killWait = 5 * time.Second
	// killLead: from SIGKILL to the end of the grace period, by which the container
	// has to be gone. A runc kill takes 20 to 50 ms.
	killLead = 200 * time.Millisecond
	// criGracePeriod is Kubernetes' default terminationGracePeriodSeconds.
	criGracePeriod = 30 * time.Second
	// answerMargin: from the answer to a start request until its deadline, so that the
	// caller receives the answer and not its own timeout.
	answerMargin = 5 * time.Second
	// onExitTime is the default time limit of onExit.
	onExitTime = 30 * time.Second
	// criOnExitTime is the longest time limit of onExit under CRI. containerd waits for
	// the exit as long as its client does (250 s were tried with 2.4). The kubelet's
	// StopContainer and StopPodSandbox wait 2 minutes, the default of
	// runtimeRequestTimeout, less what the stop has taken before.
	criOnExitTime = 100 * time.Second
	// killMargin: from the SIGKILL after a failed postStart until the deadline of the
	// start request.
	killMargin = time.Second
)

// startLimit returns when a preStart or postStart that starts now is aborted, and who
// decided so. deadline is the start request's, zero if it has none.
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
	return handler.atMost(now, limit, owner)
}

// atMost cuts the limit of a handler that starts now to the operator's:
// docs/spec.md#operator-limits-unset. limit is zero if there is none.
func (h *Handler) atMost(now, limit time.Time, owner Owner) (time.Time, Owner) {
	if most := now.Add(h.Most); h.Most > 0 && (limit.IsZero() || most.Before(limit)) {
		return most, TimeoutLimit
	}
	return limit, owner
}

// preStopLimit returns when a preStop that starts now is aborted by its own time
// limit, and who decided so. It is zero if it has none.
func (c *Config) preStopLimit(now time.Time) (time.Time, Owner) {
	limit, owner := time.Time{}, NoOwner
	if c.PreStop.Timeout > 0 {
		limit, owner = now.Add(c.PreStop.Timeout), HandlerTimeout
	}
	return c.PreStop.atMost(now, limit, owner)
}

// onExitLimit returns when an onExit that starts now is aborted, and who decided so.
// deadline is that of a start that waits for it, zero if none does.
func (c *Config) onExitLimit(now, deadline time.Time) (time.Time, Owner) {
	limit, owner := now.Add(onExitTime), OnExitDefault
	if c.OnExit.Timeout > 0 {
		limit, owner = now.Add(c.OnExit.Timeout), HandlerTimeout
	}
	limit, owner = c.OnExit.atMost(now, limit, owner)
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

// abortLimit returns when the machine does not wait any longer for a handler that is
// aborted now. Half of the time until deadline is kept for what follows; deadline is
// that of the held start, zero if there is none.
func abortLimit(now, deadline time.Time) time.Time {
	wait := abortWait
	if !deadline.IsZero() {
		wait = min(wait, deadline.Sub(now)/2)
	}
	return now.Add(max(wait, 0))
}

// gracePeriod returns the grace period of a stop, and who decided on it.
func (c *Config) gracePeriod() (time.Duration, Owner) {
	grace, owner := c.wantedGracePeriod()
	if c.MaxGracePeriod > 0 && c.MaxGracePeriod < grace {
		return c.MaxGracePeriod, GracePeriodLimit
	}
	return grace, owner
}

// wantedGracePeriod is the grace period without the operator's limit.
func (c *Config) wantedGracePeriod() (time.Duration, Owner) {
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

// heldGracePeriod is gracePeriod while a start is held. It ends before the deadline
// of the start request.
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

// answerBy returns when a held start is answered at the latest. The container should
// have exited at exitAt.
func answerBy(now, exitAt, deadline time.Time) time.Time {
	by := exitAt.Add(killWait)
	if !deadline.IsZero() {
		remaining := deadline.Sub(now)
		by = earliest(by, deadline.Add(-min(killMargin, remaining/10)/2))
	}
	return by
}

// signalAfter returns how much of a grace period preStop may use.
func signalAfter(grace time.Duration) time.Duration {
	return grace - min(signalTail, grace/2)
}

// stopLimit returns when a stop continues although its postStart, which is aborted
// now, has not ended. Time is left for preStop.
func (c *Config) stopLimit(now, deadline time.Time) time.Time {
	grace, _ := c.heldGracePeriod(now, deadline)
	return now.Add(min(stopWait, max(leastStopWait, signalAfter(grace)/2)))
}

// killAfter returns how long after the begin of a grace period SIGKILL is sent.
func killAfter(grace time.Duration) time.Duration {
	return grace - min(killLead, grace/10)
}

// earliest returns the earliest of the times that are set.
func earliest(times ...time.Time) time.Time {
	first := time.Time{}
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
