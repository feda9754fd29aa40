package installer

import (
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// statusEvery is how often a node that needs nothing is looked at.
	statusEvery = time.Minute
	// settleTime is from the label's removal to the last look for pods: a scheduler and a kubelet may still act on the label.
	settleTime = 5 * time.Second
	// sayEvery is how often an Event is repeated, while nothing changes. API servers keep Events for an hour.
	sayEvery = 30 * time.Minute
	// fastest and slowest look at the API server.
	fastest, slowest = 2 * time.Second, time.Minute
	// looksPerSecond of all installers of a cluster together, as far as slowest allows.
	looksPerSecond = 50
)

// pace is how often one of so many installers looks at the API server. It is even shorter while something is done.
func pace(installers int) time.Duration {
	installers = min(max(installers, 1), 1<<20) // of a status that others write
	usual := time.Duration(installers) * time.Second / looksPerSecond
	return min(max(usual, fastest), slowest)
}

// failureBackoff is from a failure to the next try.
func failureBackoff(first time.Duration) wait.Backoff {
	return wait.Backoff{Duration: first, Factor: 2, Jitter: 0.5, Steps: 10, Cap: 5 * time.Minute}
}

// serverBackoff is the same for an API server that does not answer, or refuses.
func serverBackoff() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.5, Steps: 10, Cap: 30 * time.Second}
}
