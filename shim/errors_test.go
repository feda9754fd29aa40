package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

func TestCausesAreToldApart(t *testing.T) {
	for cause, err := range causes {
		got := convert(hookexec.Result{Outcome: lifecycle.Aborted, Err: causeError(cause, second)})
		if got.Outcome != lifecycle.Aborted || got.Cause != cause || !strings.Contains(got.Message, err.Error()) {
			t.Errorf("%s: got %+v", cause, got)
		}
	}
	if err := causeError(lifecycle.TimeLimit, 1234*time.Millisecond); !errors.Is(err, hookexec.ErrTimedOut) || err.Error() != "timed out after 1.2s" {
		t.Errorf("got %v", err)
	}
	for _, result := range []hookexec.Result{
		{Outcome: lifecycle.Aborted, Err: errShutdown},
		{Outcome: lifecycle.Failed, Err: hookexec.ErrContainerExited}, // what a handler fails with, it has not been aborted for
	} {
		if got := convert(result); got.Cause != lifecycle.NoCause {
			t.Errorf("got %+v", got)
		}
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
