package certs

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/log"
	core "k8s.io/api/core/v1"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

const (
	// longest is how long the keeper waits at most: clocks change, and a watch may miss something.
	longest = 10 * time.Minute
	// firstRetry and longestRetry bound the pause after an error.
	firstRetry, longestRetry = time.Second, 30 * time.Second
	// maxText bounds an error in the log: it may contain what was in the Secret's certificates.
	maxText = 1 << 10
)

// Snapshot is what one decision is made from.
type Snapshot struct {
	// Data is the Secret's, and Version that of the Secret, empty if there is none.
	Data           map[string][]byte
	Version        string
	Configurations []Configuration

	secret *core.Secret // Kube's
}

// Cluster is where the Secret and the configurations are.
type Cluster interface {
	Read(ctx context.Context) (Snapshot, error)
	// Write replaces the Secret's data, if the Secret is still of the snapshot's version.
	Write(ctx context.Context, snapshot Snapshot, data map[string][]byte) error
	// Publish writes the bundle into all entries of a configuration that is still of its version.
	Publish(ctx context.Context, configuration Configuration, bundle []byte) error
}

// Keeper carries the steps out. Only one of all replicas should run it at a time. If two do,
// as when one was stopped and does not know yet that another leads, the versions of what
// they have read keep them from undoing each other's steps.
type Keeper struct {
	Cluster  Cluster
	Settings Settings
	// Changed receives when the Secret or a configuration has changed.
	Changed <-chan struct{}

	reported string // the version of the Secret whose errors were logged
}

// Run returns when ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	backoff := flowcontrol.NewBackOff(firstRetry, longestRetry)
	const step = "step"
	for ctx.Err() == nil {
		pause, err := k.step(ctx)
		if err == nil {
			backoff.Reset(step)
		} else {
			backoff.Next(step, time.Now())
			pause = backoff.Get(step)
			if ctx.Err() == nil {
				log.L.Warnf("cannot keep the webhook's certificates up to date, trying again in %s: %s", pause, shorten.End(err.Error(), maxText))
			}
		}
		timer := time.NewTimer(min(pause, longest))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-k.changed(err):
		}
		timer.Stop()
	}
}

// changed does not cut the pause after an error short: the error could be caused by what
// changes all the time.
func (k *Keeper) changed(err error) <-chan struct{} {
	if err != nil {
		return nil
	}
	return k.Changed
}

// step carries out the next step, and returns how long to wait for the one after it.
func (k *Keeper) step(ctx context.Context) (time.Duration, error) {
	snapshot, err := k.Cluster.Read(ctx)
	if err != nil {
		return 0, err
	}
	contents, err := Read(snapshot.Data)
	if err != nil && k.reported != snapshot.Version {
		k.reported = snapshot.Version
		log.L.Errorf("cannot use all of the Secret with the webhook's certificates; what is missing is made anew: %s", shorten.End(err.Error(), maxText))
	}
	now := time.Now()
	next := Next(contents, snapshot.Configurations, k.Settings, now)
	if next.Kind == Wait {
		return max(next.Until.Sub(now), time.Millisecond), nil
	}
	entry := log.L.WithField("step", next.Kind).WithField("why", next.Reason)
	if next.Kind == Publish {
		for _, i := range next.Configurations {
			if err := k.Cluster.Publish(ctx, snapshot.Configurations[i], Bundle(next.Trusted)); err != nil {
				return 0, err
			}
		}
		entry.Info("certificates: the configurations have the authorities")
		return 0, nil
	}
	contents, err = next.Apply(contents, k.Settings, now)
	if err != nil {
		return 0, err
	}
	data, err := contents.Data()
	if err != nil {
		return 0, fmt.Errorf("cannot encode certificates: %w", err)
	}
	if err := k.Cluster.Write(ctx, snapshot, data); err != nil {
		return 0, err
	}
	entry.Info("certificates: the Secret is written")
	return 0, nil
}
