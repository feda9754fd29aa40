package hookexec

import (
	"strings"
	"testing"
	"time"
)

// TestResumeReleasesItsContext, which lives for as long as the handler's container may.
func TestResumeReleasesItsContext(t *testing.T) {
	host, monitor := scriptHost(t, "echo x >&4; exit 1") // it waits there until it is resumed
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
		t.Errorf("its context holds %d", held)
	}
	nothingIsLeft(t, monitor, before)
}

// TestHostThatCannotBeResumed is ended: it would stay parked for ever.
func TestHostThatCannotBeResumed(t *testing.T) {
	host, monitor := scriptHost(t, "exec 4>&-; exec sleep 1000")
	before := openFDs(t)
	parked, err := (&Exec{Host: host, OutputLimit: 100}).Park(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	parked.stuffing++ // more than there is to read
	resumed := make(chan bool)
	go func() {
		_, ok := parked.resume(t.Context(), &Progress{})
		resumed <- ok
	}()
	select {
	case ok := <-resumed:
		if !ok {
			t.Error("it is taken for one that had ended before")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not come to an end")
	}
	nothingIsLeft(t, monitor, before)
}
