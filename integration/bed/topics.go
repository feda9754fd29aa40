package bed

import (
	"slices"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The topics of containerd's events of a task.
const (
	TopicCreate = "/tasks/create"
	TopicStart  = "/tasks/start"
	TopicExit   = "/tasks/exit"
	TopicDelete = "/tasks/delete"
	TopicOOM    = "/tasks/oom"
)

// WantTopics waits until the container's task events are these. TaskDelete may
// come before TaskExit, under the stock shim too: a client that deletes right
// after Wait is faster than the publishing of the exit.
func (c *Container) WantTopics(want ...string) {
	c.B.Helper()
	wantTopics(c.B.T, func() []string { return c.B.Topics(c.ID) }, want...)
}

// WantAllTopics is WantTopics with the events of handlers.
func (c *Container) WantAllTopics(want ...string) {
	c.B.Helper()
	wantTopicsBelow(c.B.T, []string{"/tasks/", "/lifecycle/"}, func() []string { return c.B.Topics(c.ID) }, want...)
}

func wantTopics(t *testing.T, topics func() []string, want ...string) {
	t.Helper()
	wantTopicsBelow(t, []string{"/tasks/"}, topics, want...)
}

func wantTopicsBelow(t *testing.T, prefixes []string, topics func() []string, want ...string) {
	t.Helper()
	var got []string
	err := harness.Poll(t.Context(), Limit, "the events", func() (bool, error) {
		got = nil
		var last []string
		for _, topic := range topics() {
			switch {
			case topic == TopicDelete, topic == TopicOOM: // in no order to the others (PARITY.md)
				last = append(last, topic)
			case slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(topic, prefix) }):
				got = append(got, topic)
			}
		}
		slices.Sort(last)
		got = append(got, slices.CompactFunc(last, func(a, b string) bool { return a == TopicOOM && b == TopicOOM })...) // cgroup v1 may report it twice
		return len(got) >= len(want), nil
	})
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("events %v, want %v (%v)", got, want, err)
	}
}

// Topics returns those of the container in the test's namespace: other tests have the same ids in theirs.
func (b *Bench) Topics(id string) []string {
	var topics []string
	for _, event := range b.Events.Of(id) {
		if event.Namespace == b.Client.Namespace {
			topics = append(topics, event.Topic)
		}
	}
	return topics
}
