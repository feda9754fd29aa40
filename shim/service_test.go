package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// newTestService returns a service of which nothing is asked but Create and what
// passes through.
func newTestService(t *testing.T) (*service, *shimtest.Task, *shimtest.Publisher) {
	t.Helper()
	inner, publisher := shimtest.NewTask(), &shimtest.Publisher{}
	return newService(t.Context(), inner, newTestEnding(t), newTestTap(t, publisher), nil, errors.New("no host: install it")), inner, publisher
}

func bundle(t *testing.T, cgroupsPath string, annotations map[string]string) string {
	t.Helper()
	config, err := json.Marshal(map[string]any{
		"annotations": annotations, "linux": map[string]any{"cgroupsPath": cgroupsPath},
	})
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(shimtest.WriteFile(t, "config.json", string(config)))
}

const goodHandler = `{exec: {command: ["true"]}}`

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

func TestCreateIsRefusedBeforeAnythingIsDone(t *testing.T) {
	for name, test := range map[string]struct {
		annotations map[string]string
		options     *anypb.Any
		code        codes.Code
		says        string
	}{
		"an invalid annotation": {
			map[string]string{oci.KeyLifecycle: "postStart: {exec: {}}"},
			nil,
			codes.InvalidArgument, oci.KeyLifecycle,
		},
		"a misspelt key":        {map[string]string{"lifecycle-shim.io/prestop": goodHandler}, nil, codes.InvalidArgument, "prestop"},
		"an unknown option":     {nil, shimtest.InTOML(t, "Nonsense = 1"), codes.InvalidArgument, "Nonsense"},
		"a type of options":     {nil, &anypb.Any{TypeUrl: "nonsense"}, codes.InvalidArgument, "nonsense"},
		"a bound of options":    {map[string]string{oci.KeyPreStop: goodHandler}, shimtest.InTOML(t, "OutputLimit = -1"), codes.InvalidArgument, "OutputLimit"},
		"no host for a handler": {map[string]string{oci.KeyPreStop: goodHandler}, nil, codes.FailedPrecondition, "install it"},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner, publisher := newTestService(t)
			response, err := s.Create(t.Context(), &taskapi.CreateTaskRequest{
				ID: "c1", Bundle: bundle(t, "", test.annotations), Options: test.options,
			})
			if response != nil || status.Code(err) != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, %v", response, err)
			}
			if len(inner.Calls()) > 0 || len(s.containers) > 0 || !passes(t, s.tap, publisher, "c1") {
				t.Errorf("something was done: %v, %v", inner.Calls(), s.containers)
			}
		})
	}
}

// TestCreateTranslatesOptions: the runc service knows runc's options only.
func TestCreateTranslatesOptions(t *testing.T) {
	runc := shimtest.Pack(t, &runcoptions.Options{BinaryName: "crun"})
	for name, test := range map[string]struct {
		options *anypb.Any
		path    string
		want    string // what the runc service finds, "" for no options at all
	}{
		"none":                    {nil, "/c1", ""},
		"runc's own":              {runc, "/c1", "crun false"},
		"TOML":                    {shimtest.InTOML(t, "BinaryName = 'crun'"), "/c1", "crun false"},
		"none, and systemd path":  {nil, "system.slice:ctr:c1", " true"},
		"TOML, and systemd path":  {shimtest.InTOML(t, "BinaryName = 'crun'"), "system.slice:ctr:c1", "crun true"},
		"runc's and systemd path": {runc, "system.slice:ctr:c1", "crun false"},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner, _ := newTestService(t)
			_, err := s.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle(t, test.path, nil), Options: test.options})
			if err != nil {
				t.Fatal(err)
			}
			got := inner.Asked("Create")[0].(*taskapi.CreateTaskRequest).Options
			if got == nil {
				if test.want != "" {
					t.Error("no options")
				}
				return
			}
			var options runcoptions.Options
			if err := typeurl.UnmarshalTo(got, &options); err != nil {
				t.Fatal(err)
			}
			if found := fmt.Sprint(options.BinaryName, " ", options.SystemdCgroup); found != test.want {
				t.Errorf("got %q, want %q", found, test.want)
			}
		})
	}
}

// TestUnreadableBundleIsTheRuntimesToRefuse: it has its own words.
func TestUnreadableBundleIsTheRuntimesToRefuse(t *testing.T) {
	s, inner, _ := newTestService(t)
	inner.Answer["Create"] = func(context.Context, any) (any, error) { return nil, fs.ErrNotExist }
	request := &taskapi.CreateTaskRequest{ID: "c1", Bundle: filepath.Join(t.TempDir(), "none")}
	if _, err := s.Create(t.Context(), request); err != fs.ErrNotExist || len(inner.Calls()) != 1 { //nolint:errorlint // the very same
		t.Errorf("got %v", err)
	}
}

func TestFailedCreateLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		refused := status.Error(codes.AlreadyExists, "runc's own words")
		inner.Answer["Create"] = func(context.Context, any) (any, error) { return nil, refused }
		_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		if !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
		if s.container("c1") != nil {
			t.Error("the container is still known")
		}
		shimtest.Emit(t, s.tap, "c1 create") // of the next one
		publisher.Expect(t, "c1 create")
	})
}

// TestCreateIsUndoneWhereItsHandlersCannotBePrepared, here as the container's
// process is gone.
func TestCreateIsUndoneWhereItsHandlersCannotBePrepared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			return &taskapi.CreateTaskResponse{Pid: noSuchPid(t)}, nil
		}
		_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		var handler *HandlerError
		if !errors.As(err, &handler) || !strings.Contains(err.Error(), "the container's init") {
			t.Errorf("got %v", err)
		}
		var methods []string
		for _, call := range inner.Calls() {
			methods = append(methods, call.Method)
		}
		if !slices.Equal(methods, []string{"Create", "Kill", "Wait", "Delete"}) {
			t.Errorf("the runc service was asked %q", methods)
		}
		if kill := inner.Asked("Kill")[0].(*taskapi.KillRequest); kill.Signal != 9 || !kill.All {
			t.Errorf("got %v", kill)
		}
		if s.container("c1") != nil || !passes(t, s.tap, publisher, "c1") {
			t.Error("the container is still known")
		}
	})
}

func TestUndoneCreationPublishesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			shimtest.Emit(t, s.tap, "c1 create")
			return &taskapi.CreateTaskResponse{Pid: noSuchPid(t)}, nil
		}
		inner.Answer["Delete"] = func(context.Context, any) (any, error) {
			shimtest.Emit(t, s.tap, "c1 exit", "c1 delete")
			return &taskapi.DeleteResponse{}, nil
		}
		_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		var handler *HandlerError
		if !errors.As(err, &handler) {
			t.Errorf("got %v", err)
		}
		publisher.Expect(t, "")
	})
}

func TestUndoneCreationPublishesNothingLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			return &taskapi.CreateTaskResponse{Pid: noSuchPid(t)}, nil
		}
		inner.Answer["Delete"] = func(context.Context, any) (any, error) {
			time.AfterFunc(10*time.Millisecond, func() { shimtest.Emit(t, s.tap, "c1 exit", "c1 delete") })
			return &taskapi.DeleteResponse{}, nil
		}
		_, _ = s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		pass(time.Second)
		publisher.Expect(t, "")
	})
}

// noSuchPid is above every pid that the kernel gives.
func noSuchPid(t *testing.T) uint32 {
	t.Helper()
	const most = 1 << 22 // PID_MAX_LIMIT, linux/threads.h
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", most+1)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("there is a process %d: %v", most+1, err)
	}
	return most + 1
}

// TestSecondCreateOfAnIDIsRefused, without the runtime, and costs the first
// nothing: passed on, it could become a container without its handlers.
func TestSecondCreateOfAnIDIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve()
		w.inner.Answer["Create"] = func(context.Context, any) (any, error) {
			t.Error("the runtime was asked")
			return nil, nil
		}
		_, err := w.service.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		if status.Code(toGRPC(err)) != codes.AlreadyExists {
			t.Errorf("got %v", err)
		}
		if w.service.container("c1") != w.c {
			t.Error("the first container has lost its handlers")
		}
		w.exit()
		select {
		case <-w.c.exited:
		default:
			t.Error("the first container has lost its gate")
		}
	})
}

// TestStartWaitsForTheEndOfTheCreation, once the runc service knows the container: its
// handlers may not be prepared yet.
func TestStartWaitsForTheEndOfTheCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, _ := newTestService(t)
		ctx, shutdown := context.WithCancel(t.Context())
		defer shutdown()
		s.ctx = ctx
		unknown, refused := status.Error(codes.NotFound, "container not created"), status.Error(codes.Internal, "runc's own words")
		created := make(chan struct{})
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			<-created
			return &taskapi.CreateTaskResponse{}, nil
		}
		inner.Answer["State"] = func(context.Context, any) (any, error) { return nil, unknown }
		inner.Answer["Start"] = func(context.Context, any) (any, error) { return nil, refused }
		go func() {
			_, _ = s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		}()
		synctest.Wait()
		start := func(ctx context.Context) <-chan error {
			answer := make(chan error, 1)
			go func() {
				_, err := s.Start(ctx, &taskapi.StartRequest{ID: "c1"})
				answer <- err
			}()
			synctest.Wait()
			return answer
		}
		if err := <-start(t.Context()); !errors.Is(err, unknown) {
			t.Errorf("got %v", err)
		}
		inner.Answer["State"] = func(context.Context, any) (any, error) {
			return &taskapi.StateResponse{Status: task.Status_CREATED}, nil
		}
		gone, leave := context.WithCancel(t.Context())
		left, answer := start(gone), start(t.Context())
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if asked := inner.Asked("Start"); len(asked) > 0 {
			t.Errorf("the runc service was asked for %d starts before", len(asked))
		}
		close(created)
		if err := <-answer; !errors.Is(err, refused) || len(inner.Asked("Start")) != 1 {
			t.Errorf("got %v", err)
		}
	})
}

// TestPanicInCreateLeavesTheIDFree for another try.
func TestPanicInCreateLeavesTheIDFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve()
		w.inner.Answer["Create"] = func(context.Context, any) (any, error) { panic("a bug") }
		func() {
			defer func() { _ = recover() }()
			_, _ = w.service.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c2"}, planOf(preStop(0)))
		}()
		if w.service.container("c2") != nil || !passes(t, w.tap, w.publisher, "c2") {
			t.Error("the id is still taken")
		}
	})
}

// TestRestoredContainerIsWatchedFromItsCreation, although there is no process
// before its start.
func TestRestoredContainerIsWatchedFromItsCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		ctx, shutdown := context.WithCancel(t.Context())
		defer shutdown()
		s.ctx = ctx
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			shimtest.Emit(t, s.tap, "c1 create")
			return &taskapi.CreateTaskResponse{}, nil
		}
		_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		if err != nil || s.container("c1") == nil {
			t.Fatalf("got %v", err)
		}
		publisher.Expect(t, "c1 create")
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

// TestEndOfTheShimAwaitsDeletes: the Shutdown that follows another container's Delete ends the shim as soon as the runc service has
// none, which is before it sends TaskDelete.
func TestEndOfTheShimAwaitsDeletes(t *testing.T) {
	for name, c := range map[string]struct{ takes, want time.Duration }{
		"that end":  {answerWait / 2, answerWait / 2},
		"that hang": {time.Hour, answerWait},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, preStop(0), &fakeHandlers{}).serve().mustStart()
				w.exit()
				ended := make(chan time.Duration)
				w.inner.Answer["Delete"] = func(context.Context, any) (any, error) {
					began := time.Now()
					go func() {
						if err := w.service.end(t.Context()); err != nil {
							t.Error(err)
						}
						ended <- time.Since(began)
					}()
					pass(c.takes)
					w.emit(&eventstypes.TaskDelete{ContainerID: "c1"})
					return &taskapi.DeleteResponse{}, nil
				}
				var group sync.WaitGroup
				group.Go(func() {
					if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
						t.Error(err)
					}
				})
				if waited := <-ended; waited != c.want {
					t.Errorf("the shim ended after %s", waited)
				}
				if published := strings.Contains(w.publisher.Published(), "delete"); published != (c.takes == c.want) {
					t.Errorf("published %q", w.publisher.Published())
				}
				group.Wait()
			})
		})
	}
}

func TestInterceptorAnswersAPanic(t *testing.T) {
	s, _, _ := newTestService(t)
	intercept := s.UnaryServerInterceptor()
	info := &ttrpc.UnaryServerInfo{FullMethod: "/containerd.task.v3.Task/Kill"}
	_, err := intercept(t.Context(), nil, info, func(context.Context, func(any) error) (any, error) { panic("a bug") })
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "a bug") {
		t.Errorf("got %v", err)
	}
	refused := errors.New("refused")
	got, err := intercept(t.Context(), nil, info, func(context.Context, func(any) error) (any, error) { return 5, refused })
	if got != 5 || !errors.Is(err, refused) {
		t.Errorf("got %v, %v", got, err)
	}
}

// tracingTask is a runc service that brings an interceptor, as in tracing builds.
type tracingTask struct {
	*shimtest.Task
	seen string
}

func (f *tracingTask) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		f.seen = info.FullMethod
		return method(ctx, unmarshal)
	}
}

func TestInterceptorKeepsTheRuncServicesOwn(t *testing.T) {
	inner := &tracingTask{Task: shimtest.NewTask()}
	s := newService(t.Context(), inner, newTestEnding(t), newTestTap(t, &shimtest.Publisher{}), nil, nil)
	_, err := s.UnaryServerInterceptor()(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: "m"},
		func(context.Context, func(any) error) (any, error) { panic("a bug") })
	if inner.seen != "m" || status.Code(err) != codes.Internal {
		t.Errorf("saw %q, got %v", inner.seen, err)
	}
}

func TestCodes(t *testing.T) {
	plain := errors.New("plain")
	for name, test := range map[string]struct {
		err  error
		want codes.Code
	}{
		"none":                       {nil, codes.OK},
		"an annotation":              {&oci.InvalidError{Key: oci.KeyPreStop, Problem: "x"}, codes.InvalidArgument},
		"an option":                  {&options.Error{Err: plain}, codes.InvalidArgument},
		"an option, wrapped":         {fmt.Errorf("x: %w", &options.Error{Err: plain}), codes.InvalidArgument},
		"an unprepared handler":      {&HandlerError{Err: plain}, codes.FailedPrecondition},
		"a failed postStart":         {&lifecycle.StartError{Message: "x"}, codes.Unknown},
		"a postStart that was ended": {&lifecycle.StartError{Cause: lifecycle.StopRequest}, codes.Aborted},
		"a postStart that was killed": {
			&lifecycle.StartError{Cause: lifecycle.ContainerKill}, codes.Aborted,
		},
		"a container that exists":  {&existsError{id: "x"}, codes.AlreadyExists},
		"a shim that ends":         {&endingError{id: "x"}, codes.Unavailable},
		"nothing of that name":     {&notFoundError{"x"}, codes.NotFound},
		"what does not run":        {&notRunningError{"x"}, codes.FailedPrecondition},
		"what the machine refuses": {&lifecycle.RefusedError{}, codes.FailedPrecondition},
		"a wait that was too long": {&waitError{err: context.DeadlineExceeded}, codes.DeadlineExceeded},
		"a wait of who has gone":   {&waitError{err: context.Canceled}, codes.Canceled},
		"a panic":                  {&panicError{value: "x"}, codes.Internal},
		"the runc service's":       {status.Error(codes.NotFound, "x"), codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			err := toGRPC(test.err)
			got, ok := status.FromError(err)
			if !ok || got.Code() != test.want {
				t.Errorf("got %v", err)
			}
			if test.err != nil && !strings.Contains(err.Error(), status.Convert(test.err).Message()) {
				t.Errorf("%q has lost the words of %q", err, test.err)
			}
		})
	}
}

// What our errors wrap is found in them, and an option's is one line.
func TestErrorsWrap(t *testing.T) {
	plain := errors.New("a\n\tb")
	for _, err := range []error{&options.Error{Err: plain}, &HandlerError{Err: plain}, &waitError{err: plain}} {
		if !errors.Is(err, plain) {
			t.Errorf("%T does not wrap", err)
		}
	}
	if got := (&options.Error{Err: plain}).Error(); got != "runtime options: a b" {
		t.Errorf("got %q", got)
	}
}

// TestErrorsOfTheRuncService: the ttrpc server makes the same of them as under the stock shim, by what they are.
func TestErrorsOfTheRuncService(t *testing.T) {
	for _, err := range []error{errShutdown, errors.New("plain"), context.DeadlineExceeded, fs.ErrNotExist, &fs.PathError{Err: fs.ErrNotExist}} {
		if got := toGRPC(err); got != err { //nolint:errorlint // the very same
			t.Errorf("%#v has become %#v", err, got)
		}
	}
}

// TestTaskV2IsTaskV3UnderAnotherName: a method that a new version of containerd
// adds to the interface is not to be forgotten in the table.
func TestTaskV2IsTaskV3UnderAnotherName(t *testing.T) {
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	s, inner, _ := newTestService(t)
	if err := s.RegisterTTRPC(server); err != nil {
		t.Fatal(err)
	}
	var want []string
	api := reflect.TypeFor[taskapi.TTRPCTaskService]()
	for i := range api.NumMethod() {
		want = append(want, api.Method(i).Name)
	}
	for _, name := range []string{taskV2, "containerd.task.v3.Task"} {
		if got := registered(t, server, name); !slices.Equal(got, want) {
			t.Errorf("%s has the methods %q, want %q", name, got, want)
		}
	}
	client := connect(t, server)
	for i := range api.NumMethod() {
		method := api.Method(i)
		request := reflect.New(method.Type.In(1).Elem()).Interface()
		response := reflect.New(method.Type.Out(0).Elem()).Interface()
		if err := client.Call(t.Context(), taskV2, method.Name, request, response); err != nil {
			t.Errorf("%s: %v", method.Name, err)
		}
		asked := inner.Asked(method.Name)
		if len(asked) != 1 || reflect.TypeOf(asked[0]) != method.Type.In(1) {
			t.Errorf("%s reached %s as %v", method.Name, method.Name, asked)
		}
	}
}

// registered looks into the server, which does not report what it serves.
func registered(t *testing.T, server *ttrpc.Server, service string) []string {
	t.Helper()
	services := reflect.ValueOf(server).Elem().FieldByName("services").Elem().FieldByName("services")
	description := services.MapIndex(reflect.ValueOf(service))
	if !description.IsValid() {
		t.Fatalf("%s is not registered", service)
	}
	var names []string
	for _, name := range description.Elem().FieldByName("Methods").MapKeys() {
		names = append(names, name.String())
	}
	slices.Sort(names)
	return names
}

// connect serves until the test ends.
func connect(t *testing.T, server *ttrpc.Server) *ttrpc.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), listener) }()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
		if err := <-served; !errors.Is(err, ttrpc.ErrServerClosed) {
			t.Error(err)
		}
	})
	return client
}

func TestNewConfig(t *testing.T) {
	wanted := func(annotations map[string]string) *oci.Lifecycle {
		lifecycle, err := (&oci.Spec{Annotations: annotations}).Lifecycle()
		if err != nil {
			t.Fatal(err)
		}
		return lifecycle
	}
	defaults := options.Settings{PostStartTimeout: time.Minute, GracePeriod: 7 * time.Second}
	all := map[string]string{
		"io.kubernetes.cri.container-type":         "container",
		"io.kubernetes.pod.terminationGracePeriod": "40",
		oci.KeyLifecycle: `
preStart: {exec: {command: [a]}, timeoutSeconds: 3}
postStart: {exec: {command: [a]}, timeoutSeconds: 60, failurePolicy: Ignore}
preStop: {exec: {command: [a]}, timeoutSeconds: 5}
onExit: {exec: {command: [a]}, timeoutSeconds: 4}
stopSignal: SIGQUIT
terminationGracePeriodSeconds: 30`,
	}
	full := lifecycle.Config{
		CRI: true, StopSignal: 3, GracePeriod: 30 * time.Second,
		PostStart:               &lifecycle.Handler{Timeout: time.Minute, IgnoreFailure: true},
		PreStop:                 &lifecycle.Handler{Timeout: 5 * time.Second},
		PreStart:                &lifecycle.Handler{Timeout: 3 * time.Second},
		OnExit:                  &lifecycle.Handler{Timeout: 4 * time.Second},
		PodGracePeriod:          40 * time.Second,
		DefaultPostStartTimeout: time.Minute, DefaultGracePeriod: 7 * time.Second,
	}
	restored := full
	restored.PreStart, restored.PostStart = nil, nil
	least := lifecycle.Config{
		PostStart:               &lifecycle.Handler{},
		DefaultPostStartTimeout: time.Minute, DefaultGracePeriod: 7 * time.Second,
	}
	for name, test := range map[string]struct {
		annotations map[string]string
		restored    bool
		want        lifecycle.Config
	}{
		"everything":                {all, false, full},
		"restored: no postStart":    {all, true, restored},
		"the least":                 {map[string]string{oci.KeyPostStart: goodHandler}, false, least},
		"failurePolicy Fail, named": {map[string]string{oci.KeyPostStart: `{exec: {command: [a]}, failurePolicy: Fail}`}, false, least},
	} {
		t.Run(name, func(t *testing.T) {
			if got := newConfig(wanted(test.annotations), defaults, test.restored); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestStopsUnpark: a handler that waits for its container's start would hold the end of the container's pid namespace.
func TestStopsUnpark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		before := w.handlers.unparked
		w.kill(unix.SIGKILL)
		if w.handlers.unparked != before+1 {
			t.Error("a Kill leaves a parked handler")
		}
		pass(second)
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		if w.handlers.unparked != before+2 {
			t.Error("a Delete leaves a parked handler")
		}
		if len(w.service.all()) > 0 {
			t.Error("the id is taken when the Delete is answered")
		}
	})
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

// TestSignalIsBounded: the time for a signal begins when the runtime's start, which holds it up, has returned.
func TestSignalIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		w.inner.Answer["Kill"] = func(ctx context.Context, _ any) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		began := time.Now()
		_, err := w.service.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: uint32(unix.SIGHUP)})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != signalWait {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if asked := len(w.inner.Asked("State")); asked > 1 {
			t.Errorf("%d states are asked for, outside of a start", asked)
		}
	})
}

// TestStartPassesItsDeadlineOn, and nothing else of its client's connection.
func TestStartPassesItsDeadlineOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, wait := range []time.Duration{0, 30 * second} {
			w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve()
			began := time.Now()
			start := w.inner.Answer["Start"]
			w.inner.Answer["Start"] = func(ctx context.Context, r any) (any, error) {
				deadline, ok := ctx.Deadline()
				if ok != (wait > 0) || ok && deadline.Sub(began) != wait {
					t.Errorf("the runtime's start has until %v, %t", deadline, ok)
				}
				return start(ctx, r)
			}
			if err := w.start(wait).answered(t, 0); err != nil {
				t.Error(err)
			}
			if !slices.Equal(w.handlers.pids, []int{shimtest.Pid}) {
				t.Errorf("handlers were told the pids %v", w.handlers.pids)
			}
			w.exit()
		}
	})
}
