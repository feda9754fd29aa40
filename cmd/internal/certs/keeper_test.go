package certs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/log"
)

func TestMain(m *testing.M) {
	log.L.Logger.SetOutput(io.Discard) // simulated years of it
	os.Exit(m.Run())
}

// written is a value and when it was written.
type written[T any] struct {
	at    time.Time
	value T
}

// seen is the last value for one that reads late by lag.
func seen[T any](history []written[T], now time.Time, lag time.Duration) (value T) {
	for _, entry := range history {
		if !entry.at.After(now.Add(-lag)) {
			value = entry.value
		}
	}
	return value
}

// model is a cluster whose API servers and replicas read late.
type model struct {
	mu             sync.Mutex // for TestKeeperRuns, which changes it while the keeper runs
	random         *rand.Rand
	faults         float64 // the share of requests that fail
	version        int
	secret         []written[map[string][]byte]
	configurations []written[[]Configuration] // as a whole, one entry for each write
}

var errFault = errors.New("the API server is away")

func (m *model) fault() error {
	if m.random.Float64() < m.faults {
		return errFault
	}
	return nil
}

func (m *model) locked(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do()
}

func (m *model) last() (map[string][]byte, []Configuration) {
	return m.secret[len(m.secret)-1].value, m.configurations[len(m.configurations)-1].value
}

func (m *model) Read(context.Context) (Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	secret, configurations := m.last()
	return Snapshot{Data: secret, Version: strconv.Itoa(m.version), Configurations: configurations}, m.fault()
}

func (m *model) Write(_ context.Context, snapshot Snapshot, data map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fault(); err != nil {
		return err
	}
	if snapshot.Version != strconv.Itoa(m.version) {
		return errors.New("conflict")
	}
	m.put(data)
	if m.random.Float64() < m.faults { // written, but the answer is lost
		return errFault
	}
	return nil
}

func (m *model) put(data map[string][]byte) {
	m.version++
	m.secret = append(m.secret, written[map[string][]byte]{time.Now(), maps.Clone(data)})
}

func (m *model) Publish(_ context.Context, configuration Configuration, bundle []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fault(); err != nil {
		return err
	}
	_, now := m.last()
	changed := append([]Configuration{}, now...)
	for i, one := range now {
		if one.Kind != configuration.Kind {
			continue
		}
		if one.Version != configuration.Version {
			return errors.New("conflict")
		}
		version, _ := strconv.Atoi(one.Version)
		changed[i] = Configuration{Kind: one.Kind, Version: strconv.Itoa(version + 1), Bundles: make([][]byte, len(one.Bundles))}
		for entry := range one.Bundles {
			changed[i].Bundles[entry] = bundle
		}
	}
	m.configurations = append(m.configurations, written[[]Configuration]{time.Now(), changed})
	return nil
}

// replica takes what the Secret had lag ago.
type replica struct {
	Holder
	lag time.Duration
}

// wantCalls: at this moment each API server accepts the certificate of each replica.
func (m *model) wantCalls(replicas []*replica, apiLags []time.Duration) error {
	now := time.Now()
	for r, replica := range replicas {
		replica.Take(seen(m.secret, now, replica.lag), now)
		pair, err := replica.Get(nil)
		if err != nil {
			return fmt.Errorf("replica %d: %w", r, err)
		}
		for a, lag := range apiLags {
			for _, configuration := range seen(m.configurations, now, lag) {
				trusted, err := readBundle(configuration.Bundles[0])
				if err == nil {
					err = verify(pair.Leaf, trusted, settings.Names, now)
				}
				if err != nil {
					return fmt.Errorf("%s: API server %d calls replica %d as %s says: %w", now, a, r, configuration.Kind, err)
				}
			}
		}
	}
	return nil
}

// run makes the keeper take its steps until the end, with a call of everyone to everyone
// after each and in between.
func (m *model) run(t *testing.T, until time.Time, replicas []*replica, apiLags []time.Duration) {
	t.Helper()
	keeper := Keeper{Cluster: m, Settings: settings}
	for time.Now().Before(until) {
		pause, err := keeper.step(t.Context())
		if err != nil {
			pause = time.Minute
		}
		if err := m.wantCalls(replicas, apiLags); err != nil {
			t.Fatal(err)
		}
		<-time.After(min(pause, 30*time.Minute))
	}
}

func newModel(seed uint64) *model {
	return &model{
		random: rand.New(rand.NewPCG(seed, 0)), secret: []written[map[string][]byte]{{time.Now(), nil}},
		configurations: []written[[]Configuration]{{time.Now(), trusting(nil)}},
	}
}

// settle founds the authority and gives everybody the time to read it.
func (m *model) settle(t *testing.T) {
	t.Helper()
	keeper := Keeper{Cluster: m, Settings: settings}
	for range 4 {
		if _, err := keeper.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(2 * time.Hour)
}

// Over several authorities, no call fails: whenever API servers and replicas read, within the
// times that were allowed them, and whichever requests of the leader fail.
func TestNoCallFails(t *testing.T) {
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) {
			m := newModel(seed)
			m.settle(t)
			m.faults = 0.3 * float64(seed%2)
			lag := func(most time.Duration) time.Duration { return time.Duration(m.random.Int64N(int64(most))) }
			// A certificate is renewed 2 h before it expires.
			replicas := []*replica{{}, {lag: lag(90 * time.Minute)}, {lag: 90 * time.Minute}}
			m.run(t, time.Now().Add(50*time.Hour), replicas, []time.Duration{0, lag(settings.Propagation), settings.Propagation - 1})
			authorities := map[string]bool{}
			for _, entry := range m.secret {
				if c, _ := Read(entry.value); c.Authority != nil {
					authorities[c.Authority.Certificate.SerialNumber.String()] = true
				}
			}
			if len(authorities) < 3 || len(m.secret) < 15 {
				t.Errorf("only %d authorities, and %d writes", len(authorities), len(m.secret))
			}
		})
	}
}

// A Secret that is lost or damaged, at any time, is made anew, and no call fails: replicas
// serve what they have read.
func TestNoCallFailsWithoutSecret(t *testing.T) {
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) {
			m := newModel(seed)
			m.settle(t)
			replicas := []*replica{{}, {lag: 10 * time.Minute}}
			apis := []time.Duration{0, settings.Propagation - 1}
			for round := range 6 {
				m.run(t, time.Now().Add(time.Duration(m.random.Int64N(int64(12*time.Hour)))), replicas, apis)
				data, _ := m.last()
				damaged := maps.Clone(data)
				switch keys := []string{keyAuthority, keyTrusted, keyNext, keyPublished, keyCertificate, keyPrivate}; round % 3 {
				case 0:
					damaged = nil
				case 1:
					delete(damaged, keys[m.random.IntN(len(keys))])
				case 2:
					damaged[keys[m.random.IntN(len(keys))]] = []byte("damaged")
				}
				m.put(damaged)
			}
		})
	}
}

// The keeper retries after errors, with pauses, and acts at once when something changes.
func TestKeeperRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(1)
		m.faults = 1
		changed := make(chan struct{}, 1)
		keeper := Keeper{Cluster: m, Settings: settings, Changed: changed}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			keeper.Run(ctx)
		}()
		<-time.After(time.Hour)
		synctest.Wait()
		if len(m.secret) != 1 {
			t.Fatal("something is written")
		}
		m.locked(func() { m.faults = 0 })
		<-time.After(longestRetry + time.Second)
		synctest.Wait()
		if _, configurations := m.last(); len(stale(nil, configurations)) != 2 {
			t.Fatal("nothing is published")
		}
		m.locked(func() {
			m.configurations = append(m.configurations, written[[]Configuration]{time.Now(), trusting(nil)})
		})
		changed <- struct{}{}
		<-time.After(time.Second)
		synctest.Wait()
		if _, configurations := m.last(); len(stale(nil, configurations)) != 2 {
			t.Error("a configuration that was changed is not written again")
		}
		cancel()
		<-ended
	})
}
