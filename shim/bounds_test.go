package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// dial connects to a socket as containerd does.
func dial(t *testing.T, socket string) *ttrpc.Client {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// FAULTS A1: for any answer of the runc service, to any method, the client gets an error that ttrpc can carry, with
// its code, and the connection stays.
func TestErrorsOfEveryMethodAreBounded(t *testing.T) {
	s, inner, _ := newTestService(t)
	dir := bundle(t, "/c1", nil)
	client := dial(t, listen(t, s))
	api := reflect.TypeFor[taskapi.TTRPCTaskService]()
	for _, service := range []string{taskV2, "containerd.task.v3.Task"} {
		for i := range api.NumMethod() {
			method := api.Method(i)
			t.Run(service+"/"+method.Name, func(t *testing.T) {
				request, response := reflect.New(method.Type.In(1).Elem()), reflect.New(method.Type.Out(0).Elem())
				if field := request.Elem().FieldByName("Bundle"); field.IsValid() {
					field.SetString(dir)
				}
				hostileText := shimtest.Hostile(40_000)
				if method.Name == "Create" {
					hostileText = shimtest.Hostile(5 << 20)
				}
				for want, failure := range map[codes.Code]func(context.Context, any) (any, error){
					codes.Unknown:  func(context.Context, any) (any, error) { return nil, errors.New(hostileText) },
					codes.NotFound: func(context.Context, any) (any, error) { return nil, status.Error(codes.NotFound, hostileText) },
					codes.Aborted: func(context.Context, any) (any, error) {
						return nil, fmt.Errorf("%s: %w", hostileText, status.Error(codes.Aborted, hostileText))
					},
					codes.Internal: func(context.Context, any) (any, error) { panic(hostileText) },
				} {
					inner.Respond(method.Name, failure) // the shim may be calling: its idle timer asks for a Shutdown
					err := client.Call(t.Context(), service, method.Name, request.Interface(), response.Interface())
					shimtest.WantBounded(t, err)
					if status.Code(err) != want || !strings.HasSuffix(err.Error(), ": the cause") {
						t.Errorf("got %s, want %s: …%q", status.Code(err), want, err.Error()[len(err.Error())-20:])
					}
				}
			})
		}
	}
}

// The status service's own errors repeat what the client has sent.
func TestErrorsOfTheStatusServiceAreBounded(t *testing.T) {
	s, _, _ := newTestService(t)
	client := lifecyclev1.NewLifecycleClient(dial(t, listen(t, s)))
	long := strings.Repeat("\x01", 1<<20)
	_, statusErr := client.Status(t.Context(), &lifecyclev1.StatusRequest{Id: long})
	_, runErr := client.Run(t.Context(), &lifecyclev1.RunRequest{Id: long, Handler: long})
	for _, err := range []error{statusErr, runErr} {
		if shimtest.WantBounded(t, err); status.Code(err) != codes.NotFound {
			t.Errorf("got %s", status.Code(err))
		}
	}
}

// An answer that ttrpc cannot carry is an error, and the connection stays.
func TestAnswersThatAreTooLong(t *testing.T) {
	s, inner, _ := newTestService(t)
	client := dial(t, listen(t, s))
	for size, want := range map[int]codes.Code{4<<20 - 2048: codes.OK, 4<<20 - 1024: codes.ResourceExhausted, 4 << 20: codes.ResourceExhausted, 9 << 20: codes.ResourceExhausted} {
		inner.Answer["State"] = func(context.Context, any) (any, error) {
			return &taskapi.StateResponse{Bundle: strings.Repeat("x", size)}, nil
		}
		response, err := taskapi.NewTTRPCTaskClient(client).State(t.Context(), &taskapi.StateRequest{ID: "c1"})
		if status.Code(err) != want || err == nil && len(response.Bundle) != size {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// a5 is a pod of containers whose handlers have failed with an error and output of that many bytes.
func a5(containers, runs, size int, output string) *lifecyclev1.StatusResponse {
	response := &lifecyclev1.StatusResponse{}
	for i := range containers {
		c := &lifecyclev1.ContainerStatus{Id: fmt.Sprint(i)}
		for range runs {
			c.Runs = append(c.Runs, &lifecyclev1.HandlerRun{
				Handler: "postStart", Error: strings.Repeat("e", size), Output: strings.Repeat(output, size), LogError: strings.Repeat("l", size),
			})
		}
		response.Containers = append(response.Containers, c)
	}
	return response
}

// FAULTS A5: an answer about many containers is cut, evenly, and says so.
func TestStatusOfManyContainersIsCut(t *testing.T) {
	for name, test := range map[string]struct {
		response *lifecyclev1.StatusResponse
		cut, out bool
	}{
		"as it comes":           {a5(36, 1, 4<<10, "x"), false, false},
		"36 containers":         {a5(36, 2, 65<<10, "\uFFFD"), true, false},
		"200 with full history": {a5(200, 8, 4<<10, "x"), true, false},
		"more than can be told": {a5(2500, 8, 100, "x"), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			containers := len(test.response.Containers)
			fit(test.response)
			if size := proto.Size(test.response); size > maxStatus || test.cut && size < maxStatus/4 {
				t.Errorf("%d bytes", size)
			}
			if test.response.Cut != test.cut || test.response.LeftOut > 0 != test.out || len(test.response.Containers)+int(test.response.LeftOut) != containers {
				t.Errorf("cut: %t, %d left out, %d shown", test.response.Cut, test.response.LeftOut, len(test.response.Containers))
			}
			for _, c := range test.response.Containers {
				for _, run := range c.Runs {
					if len(run.Error) < leastText || !utf8.ValidString(run.Output) || len(run.Output) == 0 {
						t.Fatalf("%v", run)
					}
				}
			}
		})
	}
}

// FAULTS A5: output of 1 MiB of NUL bytes, which is 3 MiB when it can be shown.
func TestRunThatPrintsALotIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		output := strings.Repeat("\uFFFD", options.MaxOutputLimit)
		w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: takes(0, hookexec.Result{
			Outcome: lifecycle.Failed, Err: errors.New(shimtest.Hostile(40_000)), ExitCode: 1, Output: output,
		})})).serve().mustStart()
		response, err := (&statusService{service: w.service}).Run(t.Context(), &lifecyclev1.RunRequest{Id: "c1", Handler: "preStop"})
		if err != nil {
			t.Fatal(err)
		}
		if size := proto.Size(response); size > maxStatus || !response.Cut {
			t.Errorf("%d bytes, cut: %t", size, response.Cut)
		}
		if len(response.Run.Error) > shorten.MaxError || len(response.Run.Output)+int(response.Run.DroppedBytes) != len(output) {
			t.Errorf("%d bytes of error, %d of output, %d dropped", len(response.Run.Error), len(response.Run.Output), response.Run.DroppedBytes)
		}
		_ = w.publisher.Published() // waits
		if len(w.publisher.Finished()) != 1 {
			t.Fatalf("%d events", len(w.publisher.Finished()))
		}
		if text := w.publisher.Finished()[0].Message; len(text) > shorten.MaxError || !utf8.ValidString(text) || !strings.HasSuffix(text, ": the cause") {
			t.Errorf("the event's message has %d bytes", len(text))
		}
	})
}

// FAULTS A5: the error of a start, with all the output that can be kept.
func TestStartErrorIsBounded(t *testing.T) {
	s, inner, _ := newTestService(t)
	inner.Answer["Start"] = func(context.Context, any) (any, error) {
		result := hookexec.Result{Outcome: lifecycle.Failed, Err: errExit3, Output: strings.Repeat("\uFFFD", options.MaxOutputLimit) + "the end"}
		return nil, errors.New("postStart handler failed: " + result.Message())
	}
	_, err := taskapi.NewTTRPCTaskClient(dial(t, listen(t, s))).Start(t.Context(), &taskapi.StartRequest{ID: "c1"})
	shimtest.WantBounded(t, err)
	if text := err.Error(); !strings.Contains(text, "postStart handler failed: exit status 3: ") || !strings.HasSuffix(text, "the end") {
		t.Errorf("got %.100q", text)
	}
}

type contextKey string

// FAULTS C6: containerd's OOM watcher ends quietly with context.Canceled only.
func TestCancelled(t *testing.T) {
	parent, end := context.WithCancelCause(context.WithValue(t.Context(), contextKey("key"), "value"))
	ctx := cancelled(parent)
	if ctx.Err() != nil || ctx.Value(contextKey("key")) != "value" {
		t.Errorf("before the end: %v, %v", ctx.Err(), ctx.Value(contextKey("key")))
	}
	end(errors.New("shutdown"))
	<-ctx.Done()
	if err := ctx.Err(); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}
