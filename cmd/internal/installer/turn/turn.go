package turn

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/util/retry"
)

const (
	// Prefix of the Leases' names; a number follows.
	Prefix = "lifecycle-shim-installer-"
	// label of the Leases: the API server selects them by it.
	label = "lifecycle-shim.io/turn"
	// renewals in a duration. The turn counts as lost after two thirds of it without one, so that it is over here before
	// others may take it.
	renewals = 6
	// releaseLimit bounds a Release, which a process does on its way out.
	releaseLimit = 3 * time.Second
)

// Config of turns. All fields are required.
type Config struct {
	Count    int           // how many installers change their nodes at once
	Identity string        // the node's name: a process that starts again on the node resumes its turn
	Duration time.Duration // after which the turn of a process that has died is free
}

// Turns are for one goroutine. A second one renews the turn between a Try that succeeded and Release.
type Turns struct {
	leases client.LeaseInterface
	config Config
	seen   map[string]sight
	held   *held // nil: none
}

// held is a turn. Its goroutine ends when the turn is lost, or stop is called.
type held struct {
	stop  context.CancelFunc
	ended chan struct{}

	mu      sync.Mutex
	lease   *coordination.Lease // the last version that is known
	renewed time.Time
	lost    bool
}

// New returns turns of which none is held.
func New(leases client.LeaseInterface, config Config) *Turns {
	return &Turns{leases: leases, config: config, seen: map[string]sight{}}
}

// Held reports whether a turn is held, for at least a third of its duration more.
func (t *Turns) Held() bool {
	if t.held == nil {
		return false
	}
	t.held.mu.Lock()
	defer t.held.mu.Unlock()
	return !t.held.lost && time.Since(t.held.renewed) < t.config.Duration*2/3
}

// Try takes a turn if one is free. If not, it returns who holds them. A turn that was lost is forgotten first.
func (t *Turns) Try(ctx context.Context) (holders []string, err error) {
	if t.Held() {
		return nil, nil
	}
	t.forget()
	leases, err := t.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the turns: %w", err)
	}
	now := time.Now()
	var free []string
	for name := range t.names {
		lease := leases[name]
		if lease == nil {
			free = append(free, name)
			continue
		}
		t.seen[name] = look(t.seen[name], lease, now)
		switch who := holder(lease, t.seen[name], now); who {
		case t.config.Identity:
			return nil, t.take(ctx, name, lease)
		case "":
			free = append(free, name)
		default:
			holders = append(holders, who)
		}
	}
	if len(free) == 0 {
		return holders, nil
	}
	name := free[rand.N(len(free))] // not all take the same one
	return holders, t.take(ctx, name, leases[name])
}

// names calls yield with the name of each turn.
func (t *Turns) names(yield func(string) bool) {
	for i := range t.config.Count {
		if !yield(fmt.Sprintf("%s%d", Prefix, i)) {
			return
		}
	}
}

// list returns the turns' Leases by name, at most Count, whatever else has the label.
func (t *Turns) list(ctx context.Context) (map[string]*coordination.Lease, error) {
	names := slices.Collect(t.names)
	leases := map[string]*coordination.Lease{}
	options := meta.ListOptions{LabelSelector: label, Limit: 500}
	for {
		page, err := t.leases.List(ctx, options)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			if lease := &page.Items[i]; slices.Contains(names, lease.Name) {
				leases[lease.Name] = lease
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return leases, nil
		}
	}
}

// take writes this process into a Lease; nil: it does not exist. That another process has been faster is no error.
func (t *Turns) take(ctx context.Context, name string, lease *coordination.Lease) error {
	begun := time.Now()
	var err error
	if lease == nil {
		lease = &coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{label: ""}}}
		t.write(lease, t.config.Identity)
		lease, err = t.leases.Create(ctx, lease, meta.CreateOptions{})
	} else {
		lease = lease.DeepCopy()
		t.write(lease, t.config.Identity)
		lease, err = t.leases.Update(ctx, lease, meta.UpdateOptions{})
	}
	switch {
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("cannot take turn %s, which exists without the label %s: delete it: %w", name, label, err)
	case apierrors.IsConflict(err):
		return nil
	case err != nil:
		return fmt.Errorf("cannot take turn %s: %w", name, err)
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx)) // until Release
	t.held = &held{stop: stop, ended: make(chan struct{}), lease: lease, renewed: begun}
	go t.held.renew(renewing, t)
	return nil
}

// write makes who the holder; an empty string makes the turn free.
func (t *Turns) write(lease *coordination.Lease, who string) {
	now := meta.NowMicro()
	seconds := int32(math.Ceil(t.config.Duration.Seconds()))
	lease.Spec.RenewTime, lease.Spec.LeaseDurationSeconds = &now, &seconds
	if before := lease.Spec.HolderIdentity; before == nil || *before != who {
		lease.Spec.AcquireTime = &now
	}
	lease.Spec.HolderIdentity = &who
}

// renew until ctx ends or another process has the turn.
func (h *held) renew(ctx context.Context, t *Turns) {
	defer close(h.ended)
	ticker := time.NewTicker(t.config.Duration / renewals)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if h.once(ctx, t) {
			return
		}
	}
}

// once renews the turn, and reports whether it is lost. An API server that does not answer may answer the next time.
func (h *held) once(ctx context.Context, t *Turns) (lost bool) {
	limited, cancel := context.WithTimeout(ctx, t.config.Duration/renewals)
	defer cancel()
	begun := time.Now()
	lease := h.lease.DeepCopy() // only this goroutine writes it, and Release after its end
	t.write(lease, t.config.Identity)
	lease, err := t.leases.Update(limited, lease, meta.UpdateOptions{})
	if apierrors.IsConflict(err) {
		// Others can have changed the Lease; or an update of ours has arrived, and its answer has not.
		lease, err = t.leases.Get(limited, h.lease.Name, meta.GetOptions{})
		if err == nil && (lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != t.config.Identity) {
			err = apierrors.NewNotFound(coordination.Resource("leases"), h.lease.Name)
		}
		begun = h.renewed // reading does not renew
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.lease, h.renewed = lease, begun
	case apierrors.IsNotFound(err): // deleted
		h.lost = true
	}
	return h.lost
}

// forget ends the renewal.
func (t *Turns) forget() {
	if t.held != nil {
		t.held.stop()
		<-t.held.ended
		t.held = nil
	}
}

// Release gives the turn back, within seconds, even if ctx has ended. If the API server does not answer, the turn is free after
// its duration.
func (t *Turns) Release(ctx context.Context) error {
	if t.held == nil {
		return nil
	}
	before := t.held
	t.forget()
	if before.lost {
		return nil
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
	defer cancel()
	if err := t.free(limited, before.lease); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot give the turn back, others wait %s for it: %w", t.config.Duration, err)
	}
	return nil
}

// free takes this process out of a Lease. After a conflict, which may come from a renewal of ours whose answer was
// lost, it reads the Lease again.
func (t *Turns) free(ctx context.Context, lease *coordination.Lease) error {
	name, known := lease.Name, lease
	return retry.RetryOnConflict(retry.DefaultRetry, func() (err error) {
		if known == nil {
			if known, err = t.leases.Get(ctx, name, meta.GetOptions{}); err != nil {
				return err
			}
		}
		update := known.DeepCopy()
		if who := update.Spec.HolderIdentity; who == nil || *who != t.config.Identity {
			return nil
		}
		known = nil
		t.write(update, "")
		_, err = t.leases.Update(ctx, update, meta.UpdateOptions{})
		return err
	})
}

// Check reports what is wrong with a configuration.
func (c Config) Check() error {
	switch {
	case c.Count < 1 || c.Count > 1000:
		return fmt.Errorf("%d nodes at once: 1 to 1000 are possible", c.Count)
	case c.Identity == "":
		return errors.New("the node's name is empty")
	case c.Duration < time.Second || c.Duration > maxDuration:
		return fmt.Errorf("a turn of %s: 1s to %s is possible", c.Duration, maxDuration)
	}
	return nil
}
