package shim

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/metrics"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestCountStep: each change is counted in the step that makes it, and what stays as it was is not.
func TestCountStep(t *testing.T) {
	held, pending := lifecycle.Status{StartHeld: true}, lifecycle.Status{Pending: 15}
	abort := func(cause lifecycle.Cause) lifecycle.Effect {
		return lifecycle.Effect{Kind: lifecycle.AbortHandler, Cause: cause}
	}
	send := func(kind lifecycle.EffectKind, signal unix.Signal) lifecycle.Effect {
		return lifecycle.Effect{Kind: kind, Signal: lifecycle.Signal{Number: uint32(signal)}}
	}
	for name, test := range map[string]struct {
		before, after lifecycle.Status
		effects       []lifecycle.Effect
		want          metrics.Counts
	}{
		"nothing":                 {},
		"a start is held":         {after: held, want: metrics.Counts{metrics.StartsHeld: 1}},
		"it stays held":           {before: held, after: held},
		"it is answered":          {before: held, want: metrics.Counts{metrics.StartsDone: 1}},
		"a stop is delayed":       {after: pending, want: metrics.Counts{metrics.StopsDelayed: 1}},
		"it stays delayed":        {before: pending, after: pending},
		"it is signaled":          {before: pending, want: metrics.Counts{metrics.StopsSignaled: 1}},
		"two deadlines":           {effects: []lifecycle.Effect{abort(lifecycle.TimeLimit), abort(lifecycle.StopDeadline)}, want: metrics.Counts{metrics.Deadlines: 2}},
		"an abort for a stop":     {effects: []lifecycle.Effect{abort(lifecycle.StopRequest)}},
		"a cause of no abort":     {effects: []lifecycle.Effect{{Kind: lifecycle.RunHandler, Cause: lifecycle.TimeLimit}, {Kind: lifecycle.RunHandler, Cause: lifecycle.StopDeadline}}},
		"a SIGKILL":               {effects: []lifecycle.Effect{send(lifecycle.SendSignal, unix.SIGKILL)}, want: metrics.Counts{metrics.Kills: 1}},
		"a SIGTERM":               {effects: []lifecycle.Effect{send(lifecycle.SendSignal, unix.SIGTERM)}},
		"a SIGKILL of no sending": {effects: []lifecycle.Effect{send(lifecycle.RunHandler, unix.SIGKILL)}},
	} {
		if got := countStep(test.before, test.after, test.effects); !maps.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

// A step that changes nothing does not touch the file, which other shims write too.
func TestNothingIsNotCounted(t *testing.T) {
	s, _, _ := newTestService(t)
	path := filepath.Join(t.TempDir(), "m.prom")
	c := &container{metricsFile: path, counters: s.counters}
	c.count(func() metrics.Counts { return metrics.Counts{} })
	s.flushCounts(t.Context())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
	if got := countRun(&handlerRun{}); got != nil { // a panic kept it from ending
		t.Errorf("a run that has not ended counts as %v", got)
	}
}
