package shim

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

func TestPanicInTheLoopLetsTheRestOfTheMailboxGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: hangs})
		w.c.ctx = panickyContext{w.c.ctx}
		start := w.c.ask(lifecycle.Event{Kind: lifecycle.StartRequested})
		w.c.post(lifecycle.Event{Kind: lifecycle.StartReturned}) // panics
		kill := w.c.ask(lifecycle.Event{Kind: lifecycle.KillRequested, Signal: lifecycle.Signal{Number: 15}})
		w.serve()
		if got := start.wait(); got.kind != lifecycle.CallStart {
			t.Errorf("%+v", got)
		}
		if got := start.wait(); !errors.Is(got.err, errShutdown) {
			t.Errorf("the start gets %+v", got)
		}
		select {
		case got := <-kill.verdict:
			if got.kind != lifecycle.Forward {
				t.Errorf("the kill gets %+v", got)
			}
		case <-time.After(time.Hour):
			t.Error("the kill is never answered")
		}
	})
}

func TestPanicInTheRuncServicesStartHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := postStart(0)
		config.PreStop = &lifecycle.Handler{}
		w := newWorld(t, config, &fakeHandlers{postStart: hangs, preStop: takes(0, succeeded)}).exitOnSignal().serve()
		w.inner.Answer["Start"] = func(context.Context, any) (any, error) {
			w.become(task.Status_RUNNING)
			w.emit(shimtest.Event("c1", "start"))
			panic("a bug")
		}
		_, err := w.service.UnaryServerInterceptor()(t.Context(), nil, &ttrpc.UnaryServerInfo{}, func(ctx context.Context, _ func(any) error) (any, error) {
			return w.service.Start(ctx, &taskapi.StartRequest{ID: "c1"})
		})
		if status.Code(err) != codes.Internal {
			t.Errorf("got %v", err)
		}
		pass(time.Hour)
		if w.state() == task.Status_CREATED {
			t.Errorf("State says CREATED for ever")
		}
		w.kill(15)
		pass(time.Hour)
		if got := w.forwarded(); !slices.Equal(got, []uint32{15}) {
			t.Errorf("the stop signal is not sent: forwarded %v", got)
		}
		w.exit()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Error(err)
		}
		pass(time.Hour)
		w.publisher.Expect(t, "c1 start, c1 exit, c1 delete")
		select {
		case <-w.loopEnded:
		default:
			t.Error("the loop never ends")
		}
	})
}
