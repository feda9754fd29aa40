package hookexec

import (
	"strings"
	"testing"
	"time"
)

// TestResumeReleasesItsContext: the attempt's context may live as long as the container.
func TestResumeReleasesItsContext(t *testing.T) {
	host, monitor := scriptHost(t, "echo x >&4; exit 1") // blocks until it is resumed
	before := openFDs(t)
	parked, err := (&Exec{Host: host, OutputLimit: 100}).Park(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := &holdingContext{Context: t.Context()}
	if result, ok := parked.resume(ctx, &Progress{}); !ok || result.Err == nil || !strings.Contains(result.Err.Error(), "without an answer") {
		t.Errorf("got %+v, %t", result, ok)
	}
	if held := ctx.held.Load(); held != 0 {
		t.Errorf("%d contexts are derived from it and not released", held)
	}
	nothingIsLeft(t, monitor, before)
}

// TestHostThatCannotBeResumed: the host is killed. Otherwise it would stay parked for ever.
func TestHostThatCannotBeResumed(t *testing.T) {
	host, monitor := scriptHost(t, "exec 4>&-; exec sleep 1000")
	before := openFDs(t)
	parked, err := (&Exec{Host: host, OutputLimit: 100}).Park(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	parked.stuffing++ // more than can be read
	resumed := make(chan bool)
	go func() {
		_, ok := parked.resume(t.Context(), &Progress{})
		resumed <- ok
	}()
	select {
	case ok := <-resumed:
		if !ok {
			t.Error("resume reports that it had ended while it was parked")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it did not end")
	}
	nothingIsLeft(t, monitor, before)
}
