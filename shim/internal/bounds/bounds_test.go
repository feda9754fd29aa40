package bounds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/sirupsen/logrus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

var hostileText = shimtest.Hostile(40_000)

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
			shimtest.WantBounded(t, got)
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

type words string

func (w words) String() string { return string(w) }

// TestLogIsBounded: a line has a bound, for any fields.
func TestLogIsBounded(t *testing.T) {
	var out bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&out)
	Log(logger)
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

// The largest answer that is sent, and the smallest that is not.
func TestBoundOfAnswers(t *testing.T) {
	for size, want := range map[int]codes.Code{4193280: codes.OK, 4193281: codes.ResourceExhausted} {
		answer := &taskapi.StateResponse{Bundle: strings.Repeat("x", size)}
		answer.Bundle = answer.Bundle[proto.Size(answer)-size:]
		if got := proto.Size(answer); got != size {
			t.Fatalf("the answer has %d bytes", got)
		}
		got, err := Answer(answer, nil)
		if status.Code(err) != want || err == nil && got != any(answer) || err != nil && got != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if got, err := Answer(5, nil); got != 5 || err != nil {
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

// Each field has its own bound, and a message that may have a stack a larger one.
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

// TestAnswerBoundsErrors: an error that is too long is cut, and takes nothing of the response away.
func TestAnswerBoundsErrors(t *testing.T) {
	got, err := Answer(5, errors.New(hostileText))
	shimtest.WantBounded(t, err)
	if got != 5 {
		t.Errorf("the response is %v", got)
	}
	if _, err := Answer(5, nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}

// TestPrinted: an error that an action prints is cut, together with the runtime's name before it, and keeps its cause.
func TestPrinted(t *testing.T) {
	if err := Printed(nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	if got := Printed(fs.ErrExist); got != fs.ErrExist { //nolint:errorlint // the very same
		t.Errorf("a short error became %v", got)
	}
	long := fmt.Errorf("%s: %w", strings.Repeat("x", 2*shorten.MaxError), fs.ErrExist)
	got := Printed(long)
	if size := len(got.Error()); size > shorten.MaxError-64 || size < shorten.MaxError-100 || !errors.Is(got, fs.ErrExist) || !strings.HasSuffix(got.Error(), fs.ErrExist.Error()) {
		t.Errorf("%d bytes: %.100v", size, got)
	}
}

// TestCodeOfALongError is the one that the ttrpc server would give it.
func TestCodeOfALongError(t *testing.T) {
	long := strings.Repeat("x", 2*shorten.MaxError)
	for cause, want := range map[error]codes.Code{
		fs.ErrExist: codes.AlreadyExists, fs.ErrNotExist: codes.NotFound, fs.ErrPermission: codes.PermissionDenied, fs.ErrClosed: codes.Unknown,
	} {
		if got := status.Code(boundError(&fs.PathError{Op: "open", Path: long, Err: cause})); got != want {
			t.Errorf("%v: %s, want %s", cause, got, want)
		}
	}
}
