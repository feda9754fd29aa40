package lifecycle

import (
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// passing are events that the machine only forwards, after the events before.
var passing = []struct {
	name   string
	config Config
	before []Event
	event  Event
}{
	{
		name: "a signal that does not stop", config: Config{PreStop: &Handler{}}, before: started,
		event: Event{Kind: KillRequested, Signal: Signal{Number: 1}, Request: 7},
	},
	{
		name: "a stop signal, no preStop", config: Config{}, before: started,
		event: Event{Kind: KillRequested, Signal: Signal{Number: sigTERM}, Request: 7},
	},
	{
		name: "any signal after the stop signal", config: Config{PreStop: &Handler{}},
		before: append(started, Event{Kind: KillRequested, Signal: Signal{Number: sigTERM}, Request: 2}, Event{Kind: HandlerEnded}),
		event:  Event{Kind: KillRequested, Signal: Signal{Number: sigTERM}, Request: 7},
	},
	{
		name: "SIGKILL", config: Config{PreStop: &Handler{}}, before: started,
		event: Event{Kind: KillRequested, Signal: Signal{Number: sigKILL}, Request: 7},
	},
	{
		name: "a second start", config: Config{PreStop: &Handler{}}, before: started,
		event: Event{Kind: StartRequested, Request: 7},
	},
	{
		name: "Delete of a running container", config: Config{PreStop: &Handler{}}, before: started,
		event: Event{Kind: DeleteRequested, Request: 7},
	},
}

var started = []Event{{Kind: StartRequested, Request: 1}, {Kind: StartReturned}}

func after(config Config, before []Event) *Machine {
	m := New(config)
	for _, event := range before {
		m.Step(noon, event)
	}
	return m
}

// TestPassingAllocatesNothing: a request that is only forwarded costs no memory, nor
// does a look at the machine.
func TestPassingAllocatesNothing(t *testing.T) {
	for _, p := range passing {
		m := after(p.config, p.before)
		effects := m.Step(noon, p.event)
		if len(effects) != 1 || effects[0].Kind != Forward && effects[0].Kind != CallDelete || effects[0].Request != 7 {
			t.Errorf("%s: not only forwarded: %v", p.name, effects)
		}
		allocated := testing.AllocsPerRun(100, func() {
			m.Step(noon, p.event)
			m.Status()
			m.Deadline()
			m.Done()
		})
		if allocated != 0 {
			t.Errorf("%s: %v allocations", p.name, allocated)
		}
	}
}

// BenchmarkPassing measures the step of an event that is forwarded.
func BenchmarkPassing(b *testing.B) {
	for _, p := range passing {
		b.Run(p.name, func(b *testing.B) {
			m := after(p.config, p.before)
			b.ReportAllocs()
			for b.Loop() {
				m.Step(noon, p.event)
			}
		})
	}
}

// life of a container with both handlers: 8 events.
var life = append(started,
	Event{Kind: HandlerEnded},
	Event{Kind: KillRequested, Signal: Signal{Number: sigTERM}, Request: 2},
	Event{Kind: HandlerEnded},
	Event{Kind: ContainerExited},
	Event{Kind: DeleteRequested, Request: 3},
	Event{Kind: DeleteReturned},
)

// BenchmarkLife measures all steps of a container with both handlers.
func BenchmarkLife(b *testing.B) {
	config := Config{PostStart: &Handler{}, PreStop: &Handler{}, DefaultPostStartTimeout: time.Minute, DefaultGracePeriod: 10 * time.Second}
	b.ReportAllocs()
	for b.Loop() {
		if m := after(config, life); !m.Done() {
			b.Fatal("the machine is not done")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(life)), "ns/event")
}
