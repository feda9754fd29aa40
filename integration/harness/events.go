package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
)

// probeTopic is of the events that Events publishes to learn whether its subscription works.
const probeTopic = "/harness/probe"

// Event is one event from containerd's stream.
type Event struct {
	Namespace   string
	Topic       string
	Timestamp   time.Time // by the publisher
	Received    time.Time // here
	ContainerID string    // empty: about no container, or not decoded
	Value       any       // decoded, if the test binary has the type linked in; else nil
	Raw         typeurl.Any
}

// Events collects a daemon's events, of all namespaces, in the order of arrival. It is safe for
// concurrent use. The stream ends with its context, with the daemon or with Close: Err says why.
type Events struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed by collect when the stream has ended

	mu      sync.Mutex // guards what follows
	seen    []Event
	of      map[[2]string][]Event // the same by namespace and container
	changed chan struct{}         // closed and replaced at each event, so that any number of waiters wake up
	err     error
}

// Events subscribes, and returns when the subscription is known to work: no event that is published later
// is missed. (containerd answers Subscribe before it has registered the subscriber.)
func (c *Client) Events(ctx context.Context) (*Events, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, errs := c.EventService().Subscribe(ctx)
	e := &Events{cancel: cancel, ended: make(chan struct{}), changed: make(chan struct{}), of: map[[2]string][]Event{}}
	go e.collect(stream, errs)

	probe := &apievents.NamespaceCreate{Name: c.Namespace} // any known type will do
	err := Poll(ctx, readyLimit, "the event subscription", func() (bool, error) {
		if err := c.EventService().Publish(c.Context(ctx), probeTopic, probe); err != nil {
			return false, err
		}
		return e.count(probeTopic) > 0, e.Err()
	})
	if err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Events) collect(stream <-chan *events.Envelope, errs <-chan error) {
	defer close(e.ended)
	for {
		select {
		case env := <-stream:
			e.add(env)
		case err := <-errs: // one value, or closed when the context ended
			e.mu.Lock()
			e.err = err
			if err == nil {
				e.err = errors.New("the event stream was closed")
			}
			e.mu.Unlock()
			return
		}
	}
}

func (e *Events) add(env *events.Envelope) {
	ev := Event{Namespace: env.Namespace, Topic: env.Topic, Timestamp: env.Timestamp, Received: time.Now(), Raw: env.Event}
	if v, err := typeurl.UnmarshalAny(env.Event); err == nil {
		ev.Value, ev.ContainerID = v, containerID(v)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, ev)
	whose := [2]string{ev.Namespace, ev.ContainerID}
	e.of[whose] = append(e.of[whose], ev)
	close(e.changed)
	e.changed = make(chan struct{})
}

// containerID finds the field by its getter (containerd's generator writes ID, the usual one Id), and in the
// events about a container's record, where it is called ID.
func containerID(v any) string {
	switch m := v.(type) {
	case interface{ GetContainerID() string }:
		return m.GetContainerID()
	case interface{ GetContainerId() string }:
		return m.GetContainerId()
	case *apievents.ContainerCreate:
		return m.ID
	case *apievents.ContainerUpdate:
		return m.ID
	case *apievents.ContainerDelete:
		return m.ID
	}
	return ""
}

// All lists the events so far, the probes left out.
func (e *Events) All() []Event {
	return e.filter(func(ev Event) bool { return ev.Topic != probeTopic })
}

// Of lists the events of one container so far.
func (e *Events) Of(id string) []Event {
	return e.filter(func(ev Event) bool { return ev.ContainerID == id })
}

// In lists the events of one container of that namespace so far. Its cost does not grow with what else has been seen.
func (e *Events) In(namespace, id string) []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.of[[2]string{namespace, id}])
}

// Topics lists the topics of one container's events so far, in order.
func (e *Events) Topics(id string) []string {
	var topics []string
	for _, ev := range e.Of(id) {
		topics = append(topics, ev.Topic)
	}
	return topics
}

func (e *Events) filter(keep func(Event) bool) []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	var kept []Event
	for _, ev := range e.seen {
		if keep(ev) {
			kept = append(kept, ev)
		}
	}
	return kept
}

func (e *Events) count(topic string) int {
	return len(e.filter(func(ev Event) bool { return ev.Topic == topic }))
}

// WaitFor returns the container's first event of that topic, when it has come, at most limit from now.
func (e *Events) WaitFor(ctx context.Context, limit time.Duration, id, topic string) (Event, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		e.mu.Lock()
		changed := e.changed // taken before the look: an event after it closes this very channel
		e.mu.Unlock()
		for _, ev := range e.Of(id) {
			if ev.Topic == topic {
				return ev, nil
			}
		}
		select {
		case <-changed:
		case <-e.ended:
			return Event{}, fmt.Errorf("event %s of %s: the stream has ended: %w", topic, id, e.Err())
		case <-ctx.Done():
			return Event{}, fmt.Errorf("event %s of %s did not come within %v; so far: %v", topic, id, limit, e.Topics(id))
		}
	}
}

// Err says why the stream ended; nil while it continues.
func (e *Events) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// Close ends the subscription and waits for it. What was collected stays readable.
func (e *Events) Close() {
	e.cancel()
	<-e.ended
}
