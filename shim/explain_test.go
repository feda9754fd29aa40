package shim

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/metrics"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestExplanationHasWhatThereIs, and no times or errors that there are not.
func TestExplanationHasWhatThereIs(t *testing.T) {
	const always = "effects event from state why"
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, test := range map[string]struct {
		step   step
		fields string
		values map[string]any
	}{
		"nothing more":       {step{}, always, nil},
		"an error":           {step{event: lifecycle.Event{Kind: lifecycle.StartReturned, Err: errKilled}}, "effects error event from state why", map[string]any{"error": "exit status 137"}},
		"a deadline":         {step{after: lifecycle.Status{Deadline: at}}, "deadline effects event from state why", map[string]any{"deadline": "2026-01-02T03:04:05Z"}},
		"a signal":           {step{effects: []lifecycle.Effect{{Kind: lifecycle.SendSignal, Limit: at}}}, always, nil},
		"a handler":          {step{effects: []lifecycle.Effect{{Kind: lifecycle.RunHandler, Limit: at, LimitOwner: lifecycle.HandlerTimeout}}}, "effects event from limit owner state why", map[string]any{"limit": "2026-01-02T03:04:05Z", "owner": lifecycle.HandlerTimeout.String()}},
		"a handler for ever": {step{effects: []lifecycle.Effect{{Kind: lifecycle.RunHandler}}}, "effects event from owner state why", nil},
	} {
		ctx, collected := logTo(t.Context(), logrus.DebugLevel)
		test.step.explain(ctx)
		lines := collected.of("lifecycle")
		if len(lines) != 1 {
			t.Fatalf("%s: %d lines", name, len(lines))
		}
		if got := names(lines[0].Data); got != test.fields {
			t.Errorf("%s: got %s, want %s", name, got, test.fields)
		}
		for field, want := range test.values {
			if got := lines[0].Data[field]; got != want {
				t.Errorf("%s: %s is %v, want %v", name, field, got, want)
			}
		}
	}
}

// TestLostCountsAreLogged: the operator learns that MetricsFile cannot be written.
func TestLostCountsAreLogged(t *testing.T) {
	ctx, collected := logTo(t.Context(), logrus.InfoLevel)
	counters := newCounters(ctx)
	path := filepath.Join(t.TempDir(), "missing", "m.prom")
	counters.Add(path, metrics.Counts{metrics.Kills: 1})
	counters.Flush(t.Context())
	lines := collected.of("cannot count what handlers do: MetricsFile must be in a directory that is there")
	if len(lines) != 1 || lines[0].Level != logrus.WarnLevel || lines[0].Data["path"] != path || lines[0].Data["error"] == nil {
		t.Errorf("got %v", lines)
	}
}
