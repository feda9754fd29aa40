package turn

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// server keeps Leases as an API server does: an update of an old version is refused.
type server struct {
	client.LeaseInterface // nil: no other request is made

	mu      sync.Mutex
	leases  map[string]coordination.Lease
	version int
	down    bool // it does not answer
	deaf    bool // it does what it is asked, and its answers are lost
	updates int
}

func newServer() *server { return &server{leases: map[string]coordination.Lease{}} }

var errDown = errors.New("connection refused")

func (s *server) store(lease *coordination.Lease) (*coordination.Lease, error) {
	s.version++
	stored := *lease.DeepCopy()
	stored.ResourceVersion = strconv.Itoa(s.version)
	s.leases[stored.Name] = stored
	if s.deaf {
		return nil, errDown
	}
	return stored.DeepCopy(), nil
}

func (s *server) Create(_ context.Context, lease *coordination.Lease, _ meta.CreateOptions) (*coordination.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errDown
	}
	if _, exists := s.leases[lease.Name]; exists {
		return nil, apierrors.NewAlreadyExists(coordination.Resource("leases"), lease.Name)
	}
	return s.store(lease)
}

func (s *server) Update(_ context.Context, lease *coordination.Lease, _ meta.UpdateOptions) (*coordination.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errDown
	}
	s.updates++
	known, exists := s.leases[lease.Name]
	if !exists {
		return nil, apierrors.NewNotFound(coordination.Resource("leases"), lease.Name)
	}
	if known.ResourceVersion != lease.ResourceVersion {
		return nil, apierrors.NewConflict(coordination.Resource("leases"), lease.Name, errors.New("old"))
	}
	return s.store(lease)
}

func (s *server) Get(_ context.Context, name string, _ meta.GetOptions) (*coordination.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lease, exists := s.leases[name]
	if s.down {
		return nil, errDown
	}
	if !exists {
		return nil, apierrors.NewNotFound(coordination.Resource("leases"), name)
	}
	return lease.DeepCopy(), nil
}

// List returns one Lease for each page.
func (s *server) List(_ context.Context, options meta.ListOptions) (*coordination.LeaseList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errDown
	}
	list := &coordination.LeaseList{}
	for i := range 1000 {
		lease, exists := s.leases[fmt.Sprintf("%s%d", Prefix, i)]
		if _, labelled := lease.Labels[options.LabelSelector]; !exists || !labelled {
			continue
		}
		if lease.Name <= options.Continue {
			continue
		}
		list.Items = append(list.Items, lease)
		list.Continue = lease.Name
		return list, nil
	}
	return list, nil
}

func (s *server) set(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *server) holder(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if who := s.leases[name].Spec.HolderIdentity; who != nil {
		return *who
	}
	return ""
}

// turns end with the test, or its bubble would wait for their renewals for ever.
func (s *server) turns(t *testing.T, identity string, count int) *Turns {
	turns := New(s, Config{Count: count, Identity: identity, Duration: time.Minute})
	t.Cleanup(turns.forget)
	return turns
}

func try(t *testing.T, turns *Turns) bool {
	t.Helper()
	if _, err := turns.Try(t.Context()); err != nil {
		t.Fatal(err)
	}
	return turns.Held()
}

func release(t *testing.T, turns *Turns) {
	t.Helper()
	if err := turns.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a, b := s.turns(t, "a", 1), s.turns(t, "b", 1)
		if !try(t, a) || try(t, b) {
			t.Fatal("a has no turn, or b has one")
		}
		if holders, _ := b.Try(t.Context()); len(holders) != 1 || holders[0] != "a" {
			t.Errorf("holders %q", holders)
		}
		time.Sleep(time.Hour) //nolint:forbidigo // the bubble's clock
		if !a.Held() || try(t, b) {
			t.Error("a's turn is not renewed")
		}
		release(t, a)
		release(t, a) // nothing
		if a.Held() || !try(t, b) {
			t.Error("a's turn is not given back")
		}
		release(t, b)
	})
}

func TestSeveralAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		var all []*Turns
		got := 0
		for i := range 6 {
			turns := s.turns(t, fmt.Sprintf("node-%d", i), 3)
			all = append(all, turns)
			for range 10 { // two may choose the same free Lease
				if try(t, turns) {
					got++
					break
				}
			}
		}
		if got != 3 {
			t.Errorf("%d turns of 3", got)
		}
		for _, turns := range all {
			release(t, turns)
		}
	})
}

// TestDead: the turn of a process that has died is free after its duration, and not before.
func TestDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a, b := s.turns(t, "a", 1), s.turns(t, "b", 1)
		try(t, a)
		a.forget() // it renews no longer
		try(t, b)
		time.Sleep(59 * time.Second) //nolint:forbidigo // the bubble's clock
		if try(t, b) {
			t.Error("b has the turn after 59 s")
		}
		time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock
		if !try(t, b) {
			t.Error("b has no turn after a minute")
		}
		release(t, b)
	})
}

// TestRestarted: a process that starts again on the node resumes its turn.
func TestRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := s.turns(t, "a", 1)
		try(t, a)
		a.forget()
		again := s.turns(t, "a", 1)
		if !try(t, again) {
			t.Error("a has to wait for itself")
		}
		release(t, again)
	})
}

// TestServerDown: without the API server, a turn is over here before others can take it, and continues if it comes back.
func TestServerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a, b := s.turns(t, "a", 1), s.turns(t, "b", 1)
		try(t, a)
		try(t, b)
		s.set(func(s *server) { s.down = true })
		time.Sleep(30 * time.Second) //nolint:forbidigo // the bubble's clock
		if !a.Held() {
			t.Error("lost after 30 s")
		}
		time.Sleep(20 * time.Second) //nolint:forbidigo // the bubble's clock
		if a.Held() {
			t.Error("held after 50 s without a renewal")
		}
		if err := a.Release(t.Context()); err == nil {
			t.Error("released without a server")
		}
		s.set(func(s *server) { s.down = false })
		time.Sleep(10 * time.Second) //nolint:forbidigo // the bubble's clock
		if !try(t, b) {
			t.Error("b has no turn after a minute")
		}
		if try(t, a) {
			t.Error("a has b's turn")
		}
		release(t, b)
	})
}

// TestAnswersLost: renewals that arrive and whose answers are lost do not lose the turn, nor its release.
func TestAnswersLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a := s.turns(t, "a", 1)
		try(t, a)
		s.set(func(s *server) { s.deaf = true })
		time.Sleep(15 * time.Second) //nolint:forbidigo // the bubble's clock
		s.set(func(s *server) { s.deaf = false })
		time.Sleep(30 * time.Second) //nolint:forbidigo // the bubble's clock
		if !a.Held() {
			t.Error("lost")
		}
		s.set(func(s *server) { s.deaf = true })
		time.Sleep(10 * time.Second) //nolint:forbidigo // the bubble's clock
		s.set(func(s *server) { s.deaf = false })
		release(t, a)
		if who := s.holder(Prefix + "0"); who != "" {
			t.Errorf("%q has the turn after the release", who)
		}
	})
}

// TestTaken: a turn that another process has taken, or that was deleted, is lost at the next renewal, and not given back.
func TestTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		a, b := s.turns(t, "a", 1), s.turns(t, "b", 1)
		try(t, a)
		s.set(func(s *server) {
			lease := s.leases[Prefix+"0"]
			other := "b"
			lease.Spec.HolderIdentity = &other
			_, _ = s.store(&lease)
		})
		time.Sleep(11 * time.Second) //nolint:forbidigo // the bubble's clock
		if a.Held() {
			t.Error("a has b's turn")
		}
		release(t, a)
		if who := s.holder(Prefix + "0"); who != "b" {
			t.Errorf("%q has the turn", who)
		}
		if !try(t, b) {
			t.Error("b does not resume its turn")
		}
		s.set(func(s *server) { delete(s.leases, Prefix+"0") })
		time.Sleep(11 * time.Second) //nolint:forbidigo // the bubble's clock
		if b.Held() {
			t.Error("b holds a turn that was deleted")
		}
		release(t, b)
	})
}

// TestHostileLeases: what others write into a Lease blocks the turns for a bounded time.
func TestHostileLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		who, year := "x", int32(365*24*3600)
		s.set(func(s *server) {
			_, _ = s.store(&coordination.Lease{
				ObjectMeta: meta.ObjectMeta{Name: Prefix + "0", Labels: map[string]string{label: ""}},
				Spec:       coordination.LeaseSpec{HolderIdentity: &who, LeaseDurationSeconds: &year},
			})
			_, _ = s.store(&coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: Prefix + "7", Labels: map[string]string{label: ""}}})
		})
		a := s.turns(t, "a", 1)
		try(t, a)
		time.Sleep(maxDuration - time.Second) //nolint:forbidigo // the bubble's clock
		if try(t, a) {
			t.Error("taken before its time")
		}
		time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock
		if !try(t, a) {
			t.Error("blocked for longer than the bound")
		}
		release(t, a)

		s.set(func(s *server) {
			_, _ = s.store(&coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: Prefix + "0"}})
		})
		if _, err := a.Try(t.Context()); err == nil || a.Held() {
			t.Error("a Lease without the label is no error")
		}
	})
}

func TestConfig(t *testing.T) {
	good := Config{Count: 1, Identity: "a", Duration: time.Minute}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Config{
		{Count: 0, Identity: "a", Duration: time.Minute},
		{Count: 1001, Identity: "a", Duration: time.Minute},
		{Count: 1, Duration: time.Minute},
		{Count: 1, Identity: "a", Duration: time.Millisecond},
		{Count: 1, Identity: "a", Duration: time.Hour},
	} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
