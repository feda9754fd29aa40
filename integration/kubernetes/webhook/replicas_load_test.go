package webhook

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const (
	// podsOfLoad are created, this many atOnce.
	podsOfLoad, atOnce = 1000, 8
	// webhookTimeout is timeoutSeconds of a mutating entry.
	webhookTimeout = 3 * time.Second
)

// load creates pods, named after what, until there are that many or more is false. at is called
// after each with their number so far. It returns how long each took.
func (r *replicated) load(what string, more func(created int) bool, at func(created int)) []time.Duration {
	r.Helper()
	var mu sync.Mutex // guards took
	var took []time.Duration
	var begun, created atomic.Int64
	var group errgroup.Group
	began := time.Now()
	for range atOnce {
		group.Go(func() error {
			for n := begun.Add(1); more(int(n) - 1); n = begun.Add(1) {
				one := time.Now()
				if err := r.create(fmt.Sprintf("%s-%d", what, n), ""); err != nil {
					return fmt.Errorf("pod %d: %w", n, err)
				}
				mu.Lock()
				took = append(took, time.Since(one))
				mu.Unlock()
				at(int(created.Add(1)))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		r.Fatal(err)
	}
	slices.Sort(took)
	r.Logf("%s: %d pods, %.0f per second; median %s, 99%% %s, longest %s", what, len(took), float64(len(took))/time.Since(began).Seconds(),
		took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	return took
}

func upTo(most int) func(int) bool { return func(created int) bool { return created < most } }

func never(int) {}

// Each replica is killed in turn while pods are created: every pod is admitted, with its
// handlers moved.
func TestReplicaIsKilled(t *testing.T) {
	r := newReplicated(t, nil, "--lease-duration=3s")
	r.wantReady()
	before := r.failOpen() // the API server may have called before it had the authorities
	r.load("all", upTo(podsOfLoad/4), never)
	if failed := r.failOpen() - before; failed != 0 {
		t.Fatalf("%d calls failed before anything was killed", failed)
	}
	r.load("killed", upTo(podsOfLoad), func(created int) {
		var err error
		switch created {
		case podsOfLoad * 2 / 10:
			err = r.replicas[0].Stop(syscall.SIGKILL)
		case podsOfLoad * 4 / 10:
			err = r.replicas[0].Start()
		case podsOfLoad * 6 / 10:
			err = r.waitReady(r.replicas[0])
		case podsOfLoad * 7 / 10:
			err = r.replicas[1].Stop(syscall.SIGKILL)
		}
		if err != nil {
			t.Error(err)
		}
	})
	failed := r.failOpen() - before
	t.Logf("calls of a killed replica that failed: %d", failed)
	if failed == 0 {
		t.Error("no call failed: nothing was killed while it was called")
	}
}

func (r *replicated) waitReady(p *replica) error {
	return harness.Poll(r.Context(), limit, p.Name+" to be ready", func() (bool, error) { return p.ready(r.Context()) == http.StatusOK, p.Ended() })
}

// A replica that hangs costs no pod. The first costs each pod two timeouts, as the API server
// calls it again after the second has changed the pod. If it led, the other one leads.
func TestReplicaHangs(t *testing.T) {
	r := newReplicated(t, nil, "--lease-duration=3s")
	r.wantReady()
	healthy := r.load("healthy", upTo(8*atOnce), never)
	var leader *replica
	r.poll("a leader", func() bool { leader = r.leader(); return leader != nil })
	first := r.replicas[0]
	for name, hung := range map[string]*replica{"first-hangs": first, "second-hangs": r.replicas[1]} {
		if err := syscall.Kill(hung.Pid(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		before := r.failOpen()
		took := r.load(name, upTo(3*atOnce), never)
		if failed := r.failOpen() - before; (failed > 0) != (hung == first) {
			t.Errorf("%s: %d calls failed; the second replica is called only if the first has not moved a pod's handlers", name, failed)
		}
		if longest := took[len(took)-1]; longest > 3*webhookTimeout { // two, and a busy machine's time
			t.Errorf("%s: a pod took %s; without it the longest took %s", name, longest, healthy[len(healthy)-1])
		}
		r.poll("another leader than "+hung.Name, func() bool { now := r.leader(); return now != nil && now != hung })
		if err := syscall.Kill(hung.Pid(), syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		r.wantReady()
	}
}

// The certificate and its authority are replaced while pods are created, and no call fails.
// When the leader is killed, the other replica replaces them.
func TestCertificatesRotate(t *testing.T) {
	audit := newAudit(t)
	r := newReplicated(t, audit.flags(), "--lease-duration=3s", "--certificate-lifetime=30s", "--authority-lifetime=120s", "--propagation-delay=5s")
	r.wantReady()
	authority := func() string { return string(r.secret().Data["ca.key"]) }
	first := authority()
	before := r.failOpen()
	var rotated atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	certificates := map[string]bool{}
	var watching sync.WaitGroup
	watching.Go(func() { // until one authority was replaced, and is no longer trusted
		defer rotated.Store(true)
		err := harness.Poll(ctx, 2*limit, "the authority to be replaced", func() (bool, error) {
			secret := r.secret()
			certificates[string(secret.Data["tls.crt"])] = true
			return string(secret.Data["ca.key"]) != first && len(secret.Data["next.key"]) == 0 && strings.Count(string(secret.Data["ca.crt"]), "BEGIN") == 1, nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	r.load("rotating", func(n int) bool { return n < atOnce || !rotated.Load() }, never)
	watching.Wait()
	t.Logf("%d certificates were served", len(certificates))
	if failed := r.failOpen() - before; failed > 0 || len(certificates) < 4 {
		t.Errorf("%d calls failed, with %d certificates", failed, len(certificates))
	}
	leader := r.leader()
	if leader == nil {
		t.Fatal("no replica leads")
	}
	if err := leader.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	served := string(r.secret().Data["tls.crt"])
	r.load("without-leader", func(n int) bool { return n < atOnce || string(r.secret().Data["tls.crt"]) == served }, never)
	if now := r.leader(); now == nil || now == leader {
		t.Error("the killed replica still leads")
	}
	audit.wantGranted(r)
}

// What somebody writes into the Secret is not served, and is made anew. Until then the last
// good certificate is.
func TestSecretIsDamaged(t *testing.T) {
	r := newReplicated(t, nil, "--lease-duration=3s", "--propagation-delay=2s")
	r.wantReady()
	for name, patch := range map[string]string{
		"deleted":        "",
		"nothing":        `[{"op":"remove","path":"/data"}]`,
		"another key":    `[{"op":"copy","from":"/data/ca.key","path":"/data/tls.key"}]`,
		"no key":         `[{"op":"replace","path":"/data/ca.key","value":"eA=="}]`,
		"no authorities": `[{"op":"replace","path":"/data/ca.crt","value":"eA=="}]`,
		"large":          fmt.Sprintf(`[{"op":"replace","path":"/data/tls.crt","value":%q}]`, strings.Repeat("eHh4", 100<<10)),
	} {
		t.Run(name, func(t *testing.T) {
			before := r.failOpen()
			method := http.MethodPatch
			if patch == "" {
				method = http.MethodDelete
			}
			status, text, err := r.ask(t.Context(), method, secretPath, "application/json-patch+json", strings.NewReader(patch))
			if err != nil || status != http.StatusOK {
				t.Fatalf("%d %v: %s", status, err, text)
			}
			r.load(strings.ReplaceAll(name, " ", "-"), func(n int) bool { return n < atOnce || !servable(r.secret().Data) }, never)
			if failed := r.failOpen() - before; failed > 0 {
				t.Errorf("%d calls failed", failed)
			}
		})
	}
}

// Before the first certificate no replica is ready, and a replica that ends still answers
// for a while.
func TestReplicaBeginsAndEnds(t *testing.T) {
	r := newReplicated(t, nil, "--lease-duration=3s", "--shutdown-delay=5s")
	r.wantReady()
	leaving := r.replicas[0]
	before := r.failOpen()
	if err := syscall.Kill(leaving.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.poll("the replica to be not ready", func() bool { return leaving.ready(t.Context()) == http.StatusServiceUnavailable })
	for time.Since(began) < 2*time.Second {
		if err := r.create(fmt.Sprintf("leaving-%d", time.Since(began)), ""); err != nil {
			t.Fatal(err)
		}
	}
	if failed := r.failOpen() - before; failed > 0 {
		t.Errorf("%d calls of a replica that is about to end failed", failed)
	}
	if err := harness.Poll(t.Context(), limit, "its end", func() (bool, error) { return leaving.Ended() != nil, nil }); err != nil {
		t.Fatal(err)
	}
	if err := leaving.Ended(); !strings.Contains(err.Error(), "exit status 0") {
		t.Error(err)
	}
	// The other one goes as well, and both begin again with what is in the Secret.
	served := string(r.secret().Data["tls.crt"])
	for _, replica := range r.replicas {
		if err := replica.Stop(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		r.startReplica(replica)
	}
	r.wantReady()
	if string(r.secret().Data["tls.crt"]) != served {
		t.Error("a start makes another certificate")
	}
}
