package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
)

// hostile text is what no answer may hold: too long, and not UTF-8.
func hostile(size int) string {
	return "OCI runtime create failed: " + strings.Repeat("\x00\xff<", size/3) + ": the cause"
}

var hostileText = hostile(40_000)

func wantBounded(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	text := status.Convert(err).Message()
	if len(text) > shorten.MaxError || !utf8.ValidString(text) {
		t.Errorf("%d bytes, valid UTF-8: %t", len(text), utf8.ValidString(text))
	}
}

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

// FAULTS A1: whatever the runc service answers, to whatever method, the client gets an error that ttrpc can carry, with
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
				hostileText := hostileText
				if method.Name == "Create" {
					hostileText = hostile(5 << 20)
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
					wantBounded(t, err)
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
		if wantBounded(t, err); status.Code(err) != codes.NotFound {
			t.Errorf("got %s", status.Code(err))
		}
	}
}

// An answer that ttrpc cannot carry is an error, and the connection stays.
func TestAnswersThatAreTooLong(t *testing.T) {
	s, inner, _ := newTestService(t)
	client := dial(t, listen(t, s))
	for size, want := range map[int]codes.Code{maxAnswer - 100: codes.OK, maxAnswer + 1: codes.ResourceExhausted, 4 << 20: codes.ResourceExhausted, 9 << 20: codes.ResourceExhausted} {
		inner.Answer["State"] = func(context.Context, any) (any, error) {
			return &taskapi.StateResponse{Bundle: strings.Repeat("x", size)}, nil
		}
		response, err := taskapi.NewTTRPCTaskClient(client).State(t.Context(), &taskapi.StateRequest{ID: "c1"})
		if status.Code(err) != want || err == nil && len(response.Bundle) != size {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestBoundError(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	detailed, err := status.New(codes.NotFound, long).WithDetails(&errdetails.ErrorInfo{Reason: "a reason"})
	if err != nil {
		t.Fatal(err)
	}
	bulky, err := status.New(codes.NotFound, "short").WithDetails(&errdetails.ErrorInfo{Reason: long})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		err     error
		is      error
		details int
	}{
		"conflict":          {errgrpc.ToGRPC(fmt.Errorf("%s: %w", long, errdefs.ErrConflict)), errdefs.ErrConflict, 0},
		"not modified":      {errgrpc.ToGRPC(fmt.Errorf("%s: %w", long, errdefs.ErrNotModified)), errdefs.ErrNotModified, 0},
		"already exists":    {errgrpc.ToGRPC(fmt.Errorf("%s: %w", long, errdefs.ErrAlreadyExists)), errdefs.ErrAlreadyExists, 0},
		"details":           {detailed.Err(), errdefs.ErrNotFound, 1},
		"details, too long": {bulky.Err(), errdefs.ErrNotFound, 0},
		"a path":            {&fs.PathError{Op: "open", Path: long, Err: fs.ErrNotExist}, errdefs.ErrNotFound, 0},
		"a path that is":    {&fs.PathError{Op: "mkdir", Path: long, Err: fs.ErrExist}, errdefs.ErrAlreadyExists, 0},
		"a path of others":  {&fs.PathError{Op: "open", Path: long, Err: fs.ErrPermission}, errdefs.ErrPermissionDenied, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := boundError(test.err)
			wantBounded(t, got)
			if size := proto.Size(status.Convert(got).Proto()); size > shorten.MaxError+16 {
				t.Errorf("with its details it has %d bytes", size)
			}
			if native := errgrpc.ToNative(got); !errors.Is(native, test.is) {
				t.Errorf("a client sees %.100q", native)
			}
			if details := len(status.Convert(got).Details()); details != test.details {
				t.Errorf("%d details", details)
			}
		})
	}
	for _, err := range []error{context.Canceled, fs.ErrNotExist, errgrpc.ToGRPC(errdefs.ErrConflict), status.Error(codes.Aborted, "short")} {
		if got := boundError(err); got != err { //nolint:errorlint // the very same
			t.Errorf("%v became %v", err, got)
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
			Outcome: hookexec.Failed, Err: errors.New(hostileText), ExitCode: 1, Output: output,
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
		result := hookexec.Result{Outcome: hookexec.Failed, Err: errExit3, Output: strings.Repeat("\uFFFD", options.MaxOutputLimit) + "the end"}
		return nil, errors.New("postStart handler failed: " + result.Message())
	}
	_, err := taskapi.NewTTRPCTaskClient(dial(t, listen(t, s))).Start(t.Context(), &taskapi.StartRequest{ID: "c1"})
	wantBounded(t, err)
	if text := err.Error(); !strings.Contains(text, "postStart handler failed: exit status 3: ") || !strings.HasSuffix(text, "the end") {
		t.Errorf("got %.100q", text)
	}
}

type words string

func (w words) String() string { return string(w) }

// TestLogIsBounded: a line has a bound, whatever its fields are.
func TestLogIsBounded(t *testing.T) {
	var out bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&out)
	boundLog(logger)
	fields := logrus.Fields{
		"text": hostileText, "error": errors.New(hostileText), "words": words(hostileText), "list": []string{hostileText},
		"bytes": []byte(hostileText), "number": 7, "took": 2 * time.Second, "short": errors.New("a reason"),
	}
	logger.WithFields(fields).Error(hostileText)
	logger.WithFields(fields).Info(hostileText)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		if len(line) > 3*(maxLogStack+5*maxLogText) || !strings.Contains(line, "number=7") || !strings.Contains(line, "took=2s") || !strings.Contains(line, `short="a reason"`) {
			t.Errorf("%d bytes: %.200q", len(line), line)
		}
	}
	if fields["text"] != hostileText {
		t.Error("the caller's fields are changed")
	}
}

// FAULTS C6: containerd's OOM watcher ends quietly with context.Canceled only.
func TestCancelled(t *testing.T) {
	parent, end := context.WithCancelCause(context.WithValue(t.Context(), words("key"), "value"))
	ctx := cancelled(parent)
	if ctx.Err() != nil || ctx.Value(words("key")) != "value" {
		t.Errorf("before the end: %v, %v", ctx.Err(), ctx.Value(words("key")))
	}
	end(errors.New("shutdown"))
	<-ctx.Done()
	if err := ctx.Err(); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

// The largest answer that is sent, and the smallest that is not.
func TestBoundOfAnswers(t *testing.T) {
	for size, want := range map[int]codes.Code{4193280: codes.OK, 4193281: codes.ResourceExhausted} {
		answer := &taskapi.StateResponse{Bundle: strings.Repeat("x", size)}
		answer.Bundle = answer.Bundle[proto.Size(answer)-size:]
		if got := proto.Size(answer); got != size {
			t.Fatalf("the answer has %d bytes", got)
		}
		got, err := bound(answer, nil)
		if status.Code(err) != want || err == nil && got != any(answer) || err != nil && got != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if got, err := bound(5, nil); got != 5 || err != nil {
		t.Errorf("what is no message: %v, %v", got, err)
	}
}

// Details are kept while they have at most half of the bytes of an error, and the text stays whole without them.
func TestBoundOfDetails(t *testing.T) {
	for size, kept := range map[int]int{2048: 1, 2049: 0} {
		detailed := func(reason int) *status.Status {
			st, err := status.New(codes.NotFound, "text").WithDetails(&errdetails.ErrorInfo{Reason: strings.Repeat("x", reason)})
			if err != nil {
				t.Fatal(err)
			}
			return st
		}
		of := func(st *status.Status) int { return proto.Size(st.Proto()) - len(st.Message()) }
		st := detailed(size - (of(detailed(size)) - size))
		if of(st) != size {
			t.Fatalf("the details have %d bytes", of(st))
		}
		got := status.Convert(boundError(st.Err()))
		if len(got.Details()) != kept || got.Message() != "text" {
			t.Errorf("%d bytes: %d details, %q", size, len(got.Details()), got.Message())
		}
	}
	long, err := status.New(codes.NotFound, strings.Repeat("x", 5000)).WithDetails(&errdetails.ErrorInfo{Reason: strings.Repeat("y", 3000)})
	if err != nil {
		t.Fatal(err)
	}
	if got := status.Convert(boundError(long.Err())); len(got.Message()) < shorten.MaxError-40 {
		t.Errorf("%d bytes of the text are left, although the details are not", len(got.Message()))
	}
}

// Each field has a bound of its own, and a message that may have a stack a larger one.
func TestBoundOfLogLines(t *testing.T) {
	for level, want := range map[logrus.Level]int{logrus.PanicLevel: 32 << 10, logrus.ErrorLevel: 32 << 10, logrus.WarnLevel: 4 << 10, logrus.DebugLevel: 4 << 10} {
		whole := errors.New(strings.Repeat("x", 4<<10))
		entry := &logrus.Entry{Level: level, Message: strings.Repeat("x", 40_000), Data: logrus.Fields{
			"text": hostileText, "error": errors.New(hostileText), "words": words(hostileText), "list": []string{hostileText}, "bytes": []byte(hostileText),
			"whole": whole, "number": 7,
		}}
		if err := (logBounds{}).Fire(entry); err != nil {
			t.Error(err)
		}
		if got := len(entry.Message); got > want || got < want-40 {
			t.Errorf("%s: a message of %d bytes", level, got)
		}
		for name, value := range entry.Data {
			if got := len(fmt.Sprint(value)); got > 4<<10 || got < 4<<10-40 && name != "number" {
				t.Errorf("%s: %s has %d bytes", level, name, got)
			}
		}
		if entry.Data["whole"] != any(whole) || entry.Data["number"] != 7 {
			t.Errorf("a short field is changed: %v", entry.Data)
		}
	}
}
