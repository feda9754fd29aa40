package main

import (
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// TestCompare: complete events in order, and everything else is reported.
func TestCompare(t *testing.T) {
	events := func(id string, topics ...string) (all []harness.Event) {
		for _, topic := range topics {
			all = append(all, harness.Event{Namespace: namespace, ContainerID: id, Topic: topic})
		}
		return all
	}
	whole := append(events("a", wanted...), events("a", "/tasks/delete")...)
	other := harness.Event{Namespace: "k8s.io", ContainerID: "b", Topic: "/tasks/exit"}
	if err := compare(append(whole, other), 1); err != nil {
		t.Error(err)
	}
	if err := compare(whole, 2); err == nil || !strings.Contains(err.Error(), "of 1 containers, and 2 were run") {
		t.Errorf("a container without events: %v", err)
	}
	for i := range whole {
		if err := compare(append(append([]harness.Event(nil), whole[:i]...), whole[i+1:]...), 1); err == nil {
			t.Errorf("without %s: no error", whole[i].Topic)
		}
		if err := compare(append(append([]harness.Event(nil), whole...), whole[i]), 1); err == nil {
			t.Errorf("with %s twice: no error", whole[i].Topic)
		}
	}
}
