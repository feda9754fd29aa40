package certs

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/log"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Lease says how the replica that leads is chosen. It is held for Duration after the
// holder's last sign of life.
type Lease struct {
	Name, Identity string
	Duration       time.Duration
}

// Lead calls lead while this replica holds the lease, until ctx ends. lead's context ends
// with the lease.
func (k *Kube) Lead(ctx context.Context, lease Lease, lead func(ctx context.Context)) error {
	var leading sync.Mutex // the library does not wait for what it has started
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  meta.ObjectMeta{Name: lease.Name, Namespace: k.Namespace},
			Client:     k.Client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: lease.Identity},
		},
		// The library's proportions: 15 s, 10 s and 2 s.
		LeaseDuration: lease.Duration, RenewDeadline: lease.Duration * 2 / 3, RetryPeriod: lease.Duration * 2 / 15,
		ReleaseOnCancel: true, // the other replica need not wait for the lease's end
		Name:            lease.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				log.L.Info("this replica keeps the certificates")
				leading.Lock()
				defer leading.Unlock()
				lead(ctx)
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      func(identity string) { log.L.WithField("leader", identity).Debug("another leader") },
		},
	})
	if err != nil {
		return fmt.Errorf("cannot take part in keeping certificates: %w", err)
	}
	for ctx.Err() == nil {
		elector.Run(ctx)
	}
	leading.Lock() // until lead has returned
	defer leading.Unlock()
	return nil
}
