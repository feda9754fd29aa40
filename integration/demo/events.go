package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// event is one line of `ctr events`.
type event struct {
	at        time.Time
	namespace string
	topic     string
	body      eventBody
}

// eventBody is what we look at in the task events; protobuf's JSON leaves zeros out.
type eventBody struct {
	ContainerID string `json:"container_id"`
	ExecID      string `json:"exec_id"` // of an exec'd process
	ID          string `json:"id"`      // of the process, in /tasks/exit and /tasks/delete
	Pid         int    `json:"pid"`
	ExitStatus  int    `json:"exit_status"`
}

// ofContainer says whether it is about the container itself and not about something exec'd in it.
func (e event) ofContainer() bool {
	return e.body.ContainerID == container && e.body.ExecID == "" && (e.body.ID == "" || e.body.ID == container)
}

// parseEvent reads a line: a time as Go prints it (four words), namespace, topic, JSON.
func parseEvent(line string) (event, bool) {
	words := strings.SplitN(line, " ", 7)
	if len(words) != 7 {
		return event{}, false
	}
	at, err := time.Parse("2006-01-02 15:04:05.999999999 -0700", strings.Join(words[:3], " "))
	e := event{at: at, namespace: words[4], topic: words[5]}
	if err != nil || json.Unmarshal([]byte(words[6]), &e.body) != nil {
		return event{}, false
	}
	return e, true
}

// eventStream is a running `ctr events` and what it has printed. Safe for concurrent use.
type eventStream struct {
	stop context.CancelFunc // ends the command

	mu      sync.Mutex
	seen    []event
	changed chan struct{} // closed by the reading goroutine, and replaced, on each event and at the end
	ended   error         // why the command ended; nil while it runs
}

// followEvents starts `ctr events`. It is subscribed a moment later: see waitSubscribed.
func followEvents(ctx context.Context, c *ctr) (*eventStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := command(ctx, c.path, "events")
	cmd.Env = c.environ()
	var stderr strings.Builder // says what it could not decode: the shim's own events
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("ctr events: %w", err)
	}
	s := &eventStream{stop: cancel, changed: make(chan struct{})}
	go func() {
		s.read(stdout)
		err := cmp.Or(cmd.Wait(), errors.New("end of stream"))
		s.add(func() { s.ended = fmt.Errorf("ctr events: %w: %s", err, strings.TrimSpace(stderr.String())) })
	}()
	return s, nil
}

func (s *eventStream) read(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if e, ok := parseEvent(lines.Text()); ok && e.namespace == namespace {
			s.add(func() { s.seen = append(s.seen, e) })
		}
	}
}

// add changes the state and wakes all who wait.
func (s *eventStream) add(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *eventStream) look() (seen []event, changed <-chan struct{}, ended error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen), s.changed, s.ended
}

// await returns the first event that matches, already seen or yet to come within limit.
func (s *eventStream) await(ctx context.Context, limit time.Duration, what string, match func(event) bool) (event, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not there after %v", limit))
	defer cancel()
	for {
		seen, changed, ended := s.look()
		if i := slices.IndexFunc(seen, match); i >= 0 {
			return seen[i], nil
		}
		if ended != nil {
			return event{}, fmt.Errorf("%s: %w", what, ended)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return event{}, fmt.Errorf("%s: %w; seen: %v", what, context.Cause(ctx), topics(seen))
		}
	}
}

// awaitTopic waits for one of the container's own events.
func (s *eventStream) awaitTopic(ctx context.Context, limit time.Duration, topic string) (event, error) {
	return s.await(ctx, limit, "event "+topic, func(e event) bool { return e.topic == topic && e.ofContainer() })
}

// ofContainer lists the container's own events so far.
func (s *eventStream) ofContainer() []event {
	seen, _, _ := s.look()
	return slices.DeleteFunc(seen, func(e event) bool { return !e.ofContainer() })
}

func topics(events []event) []string {
	names := make([]string, len(events))
	for i, e := range events {
		names[i] = e.topic
	}
	return names
}
