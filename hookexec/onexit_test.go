package hookexec

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestClean: the host gets the request, even after the handler's context was cancelled.
func TestClean(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	host, monitor := scriptHost(t, "[ $1 = clean ] && cat > "+seen)
	before := openFDs(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, clean := range map[string]func() error{
		"by the shim": func() error { return host.Clean(ctx, wire.OnExit{ID: "c1"}) },
		"alone":       func() error { return host.CleanAlone(t.Context(), wire.OnExit{ID: "c1"}) },
	} {
		if err := clean(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if data, err := os.ReadFile(seen); err != nil || !strings.Contains(string(data), `"ID":"c1"`) {
			t.Errorf("%s: got %q, %v", name, data, err)
		}
		_ = os.Remove(seen)
	}
	nothingIsLeft(t, monitor, before)
	t.Setenv("SECRET", "x")
	surroundings, _ := scriptHost(t, "env > "+seen+"; pwd >> "+seen)
	if err := surroundings.CleanAlone(t.Context(), wire.OnExit{}); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(seen); err != nil || strings.Contains(string(data), "SECRET") || !strings.HasSuffix(string(data), "\n/\n") {
		t.Errorf("it runs with %q, %v", data, err)
	}
	failing, _ := scriptHost(t, "echo busy; exit 3")
	if err := failing.CleanAlone(t.Context(), wire.OnExit{}); err == nil || err.Error() != "lifecycle-hookexec clean: exit status 3: busy" {
		t.Errorf("got %v", err)
	}
}

// TestOnExitExecCleansUp after every attempt, and reports errors.
func TestOnExitExecCleansUp(t *testing.T) {
	calls := filepath.Join(t.TempDir(), "calls")
	for script, fails := range map[string]int{"": 0, "exit 1": 1} {
		host, _ := scriptHost(t, "echo $1 >> "+calls+"; [ $1 = clean ] || exit 7; "+script)
		failed := 0
		action := &OnExitExec{Exec: Exec{Host: host, Progress: &Progress{}, Request: wire.StartRequest{OnExit: &wire.OnExit{}}}, CleanFailed: func(error) { failed++ }}
		if result := action.Attempt(t.Context()); result.Outcome != lifecycle.Failed || failed != fails {
			t.Errorf("%q: got %+v, %d failures", script, result, failed)
		}
		if data, err := os.ReadFile(calls); string(data) != "start\nclean\n" || err != nil {
			t.Errorf("%q: called by %q, %v", script, data, err)
		}
		_ = os.Remove(calls)
	}
}
