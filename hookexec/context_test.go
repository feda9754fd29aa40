package hookexec

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// holdingContext counts the contexts that are derived from it and not released yet.
type holdingContext struct {
	context.Context

	held atomic.Int32
}

// AfterFunc is called by package context for each derived context.
func (c *holdingContext) AfterFunc(f func()) (stop func() bool) {
	c.held.Add(1)
	stopped := context.AfterFunc(c.Context, f)
	return func() bool {
		c.held.Add(-1)
		return stopped()
	}
}

// Value hides the embedded context's type: package context would not call AfterFunc for its own types.
func (c *holdingContext) Value(any) any { return nil }

// TestPreparationReleasesItsContext when it has ended.
func TestPreparationReleasesItsContext(t *testing.T) {
	host, _ := scriptHost(t, "cat > /dev/null")
	ctx := &holdingContext{Context: t.Context()}
	preparation := host.Prepare(ctx, wire.PrepareRequest{})
	if err := preparation.Finish(wire.Init{}); err != nil {
		t.Error(err)
	}
	if held := ctx.held.Load(); held != 0 {
		t.Errorf("its context holds %d", held)
	}
}

// TestPreparationIsCancelledWhileItWaits for the container: nothing will be sent to the host any more.
func TestPreparationIsCancelledWhileItWaits(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	host, _ := scriptHost(t, "head -c 1 > /dev/null; : > "+ready+"; exec sleep 1000")
	preparation := host.Prepare(t.Context(), wire.PrepareRequest{})
	waitFor(t, func() bool { _, err := os.Stat(ready); return err == nil })
	cancelled := make(chan struct{})
	go func() {
		defer close(cancelled)
		preparation.Cancel()
	}()
	select {
	case <-cancelled:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not come to an end")
	}
}

// TestCancelledSleepSaysWhy.
func TestCancelledSleepSaysWhy(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrContainerExited)
	if result := Sleep(time.Hour).Attempt(ctx); result.Outcome != lifecycle.Failed || !errors.Is(result.Err, ErrContainerExited) || result.ExitCode != -1 {
		t.Errorf("got %+v", result)
	}
}

// TestOutputWithNothingInTheBackground.
func TestOutputWithNothingInTheBackground(t *testing.T) {
	progress := &Progress{}
	progress.show(&output{})
	if got := progress.Background(); got != 0 {
		t.Errorf("%d are in the background", got)
	}
}

// TestTCPSocketCloses its connection.
func TestTCPSocketCloses(t *testing.T) {
	n := newNetNS(t)
	listener := n.listen(t, "127.0.0.1:0")
	result := (&TCPSocket{NetNS: n, Socket: &lifecyclev1.TCPSocketAction{Host: "127.0.0.1", Port: portOf(listener)}}).Attempt(t.Context())
	if result.Outcome != lifecycle.Succeeded {
		t.Fatalf("got %+v", result)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}
