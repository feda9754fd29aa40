package shim

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

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
