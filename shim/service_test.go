package shim

import (
	"context"
	"errors"
	"io/fs"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// newTestService returns a service of which nothing is asked but Create and what
// passes through.
func newTestService(t *testing.T) (*service, *shimtest.Task, *shimtest.Publisher) {
	t.Helper()
	inner, publisher := shimtest.NewTask(), &shimtest.Publisher{}
	return newService(t.Context(), inner, newTestEnding(t), newTestTap(t, publisher), nil, errors.New("no host: install it")), inner, publisher
}

// TestContainersWithoutHandlersGoStraightThrough: the very request reaches the
// runc service, and its very answer and error come back.
func TestContainersWithoutHandlersGoStraightThrough(t *testing.T) {
	s, inner, _ := newTestService(t)
	dir := bundle(t, "/c1", map[string]string{"other": "x"})
	api := reflect.TypeFor[taskapi.TTRPCTaskService]()
	for i := range api.NumMethod() {
		method := api.Method(i)
		t.Run(method.Name, func(t *testing.T) {
			request := reflect.New(method.Type.In(1).Elem())
			set := func(name, value string) {
				if field := request.Elem().FieldByName(name); field.IsValid() {
					field.SetString(value)
				}
			}
			set("ID", "c1")
			set("Bundle", dir)
			for _, wantErr := range []error{nil, status.Error(codes.NotFound, "runc's own words")} {
				response := reflect.New(method.Type.Out(0).Elem())
				inner.Answer[method.Name] = func(context.Context, any) (any, error) { return response.Interface(), wantErr }
				got := reflect.ValueOf(s).MethodByName(method.Name).Call([]reflect.Value{reflect.ValueOf(t.Context()), request})
				if got[0].Pointer() != response.Pointer() {
					t.Errorf("the answer is another one: %v", got[0])
				}
				if err, _ := got[1].Interface().(error); !errors.Is(err, wantErr) {
					t.Errorf("the error is another one: %v", err)
				}
			}
			asked := inner.Asked(method.Name)
			if len(asked) != 2 || asked[0] != request.Interface() || asked[1] != request.Interface() {
				t.Errorf("the runc service was asked %v", asked)
			}
		})
	}
	// Of each method the runc service has been asked, and nothing else.
	if got, want := len(inner.Calls()), 2*api.NumMethod(); got != want {
		t.Errorf("%d calls were made for %d requests", got, want)
	}
}

// TestExecsGoStraightThrough, also in containers with handlers.
func TestExecsGoStraightThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		w.inner.Forget()
		ctx := t.Context()
		start, kill := &taskapi.StartRequest{ID: "c1", ExecID: "e"}, &taskapi.KillRequest{ID: "c1", ExecID: "e", Signal: 15}
		remove, state := &taskapi.DeleteRequest{ID: "c1", ExecID: "e"}, &taskapi.StateRequest{ID: "c1", ExecID: "e"}
		w.inner.Answer = map[string]func(context.Context, any) (any, error){}
		_, startErr := w.service.Start(ctx, start)
		_, killErr := w.service.Kill(ctx, kill)
		_, removeErr := w.service.Delete(ctx, remove)
		_, stateErr := w.service.State(ctx, state)
		if err := errors.Join(startErr, killErr, removeErr, stateErr); err != nil {
			t.Error(err)
		}
		want := []shimtest.Call{{Method: "Start", Request: start}, {Method: "Kill", Request: kill}, {Method: "Delete", Request: remove}, {Method: "State", Request: state}}
		if !slices.Equal(w.inner.Calls(), want) {
			t.Errorf("got %v, want %v", w.inner.Calls(), want)
		}
		w.handlers.expect(t, nil, nil)
	})
}

func TestStateSaysCreatedOnlyForRunningAndOnlyWhileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(second, succeeded)}).serve()
		if w.state() != task.Status_CREATED { // the runc service's own
			t.Errorf("before the start: %s", w.state())
		}
		start := w.start(0)
		synctest.Wait()
		for value, name := range task.Status_name {
			real := task.Status(value)
			w.become(real)
			want := real
			if real == task.Status_RUNNING {
				want = task.Status_CREATED
			}
			if got := w.state(); got != want {
				t.Errorf("held, %s: got %s", name, got)
			}
		}
		w.become(task.Status_RUNNING)
		<-start.done
		for value, name := range task.Status_name {
			w.become(task.Status(value))
			if got := w.state(); got != task.Status(value) {
				t.Errorf("started, %s: got %s", name, got)
			}
		}
		w.inner.Answer["State"] = func(context.Context, any) (any, error) { return nil, fs.ErrNotExist }
		if _, err := w.service.State(t.Context(), &taskapi.StateRequest{ID: "c1"}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
}

// TestKillAfterAnExitStartsNoPreStop, although the exit's event is on its way:
// the client has seen it.
func TestKillAfterAnExitStartsNoPreStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		w.become(task.Status_STOPPED)
		began := time.Now()
		if _, err := w.service.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: 15}); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited != exitWait {
			t.Errorf("it waits %s for an event that does not come", waited)
		}
		if got := w.forwarded(); !slices.Equal(got, []uint32{15}) {
			t.Errorf("forwarded %v", got)
		}
		w.handlers.expect(t, nil, nil)
	})
}

// TestRequestsAfterAnExitComeAfterItsEvent: what they make runc do must not keep
// the runc service from telling the exit.
func TestRequestsAfterAnExitComeAfterItsEvent(t *testing.T) {
	for name, request := range map[string]func(*world) error{
		"Kill": func(w *world) error {
			_, err := w.service.Kill(w.t.Context(), &taskapi.KillRequest{ID: "c1", Signal: 9})
			return err
		},
		"Delete": func(w *world) error {
			_, err := w.service.Delete(w.t.Context(), &taskapi.DeleteRequest{ID: "c1"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
				began := time.Now()
				calls := w.inner.Answer[name]
				w.inner.Answer[name] = func(ctx context.Context, request any) (any, error) {
					if waited := time.Since(began); waited != exitWait/2 {
						t.Errorf("the runc service is called after %s", waited)
					}
					return calls(ctx, request)
				}
				w.become(task.Status_STOPPED)
				time.AfterFunc(exitWait/2, func() { w.emit(&eventstypes.TaskExit{ContainerID: "c1", ID: "c1", Pid: shimtest.Pid}) })
				if err := request(w); err != nil {
					t.Error(err)
				}
				if len(w.inner.Asked(name)) != 1 {
					t.Error("the runc service is not called")
				}
			})
		})
	}
}

// TestWaitPassesThrough: for an exec, and if the runtime refuses it, onExit is not waited for.
func TestWaitPassesThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(false, true), &fakeHandlers{onExit: hangs}).serve().mustStart()
		refused := status.Error(codes.NotFound, "runc's own words")
		for _, test := range []struct {
			request *taskapi.WaitRequest
			err     error
		}{{&taskapi.WaitRequest{ID: "c1", ExecID: "e"}, nil}, {&taskapi.WaitRequest{ID: "c1"}, refused}} {
			w.inner.Answer["Wait"] = func(context.Context, any) (any, error) { return &taskapi.WaitResponse{ExitStatus: 3}, test.err }
			began := time.Now()
			response, err := w.service.Wait(t.Context(), test.request)
			if response.GetExitStatus() != 3 || !errors.Is(err, test.err) || time.Since(began) != 0 {
				t.Errorf("%v: %v, %v after %s", test.request, response, err, time.Since(began))
			}
		}
		w.exit()
		w.kill(unix.SIGKILL)
	})
}

// TestPidsWithoutState: the runtime's own answer to Pids is passed on if it does not know the container.
func TestPidsWithoutState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(false, true), &fakeHandlers{onExit: hangs}).serve().mustStart()
		w.exit()
		pass(second)
		gone := status.Error(codes.NotFound, "runc's own words")
		w.inner.Answer["State"] = func(context.Context, any) (any, error) { return nil, errors.New("other words") }
		w.inner.Answer["Pids"] = func(context.Context, any) (any, error) { return nil, gone }
		if response, err := w.service.Pids(t.Context(), &taskapi.PidsRequest{ID: "c1"}); response != nil || !errors.Is(err, gone) {
			t.Errorf("got %v, %v", response, err)
		}
		w.kill(unix.SIGKILL)
	})
}
