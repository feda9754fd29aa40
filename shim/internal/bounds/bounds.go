// Package bounds keeps what the shim sends to containerd within containerd's limits:
// answers and errors over ttrpc, errors that an action prints, and lines of the log.
//
// ttrpc closes a connection over which it cannot send an answer: one above 4 MiB, or an
// error that is not UTF-8. containerd takes the shim for dead then. So every answer passes
// Answer, in the interceptor of the shim's server.
package bounds

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// maxAnswer is the size of the largest answer: ttrpc's messageLengthMax, less room for
// what ttrpc puts around it.
const maxAnswer = 4<<20 - 1<<10

// Answer returns the answer to a request as ttrpc can send it.
func Answer(response any, err error) (any, error) {
	if err != nil {
		return response, boundError(err)
	}
	message, _ := response.(proto.Message)
	if size := proto.Size(message); size > maxAnswer { // 0 if it is no message
		return nil, status.Errorf(codes.ResourceExhausted, "the answer has %d bytes, and a message at most %d", size, maxAnswer)
	}
	return response, nil
}

// boundError returns an error whose text and details together have at most
// shorten.MaxError bytes of UTF-8. An error that is short enough stays the same
// value. A longer one keeps its code, and its details if they take at most half of it.
func boundError(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		if text := shorten.Error(err); text != err.Error() {
			return status.Error(ttrpcCode(err), text)
		}
		return err
	}
	cut := st.Proto()
	text := &cut.Message
	details := proto.Size(cut) - len(*text)
	if details > shorten.MaxError/2 {
		cut.Details, details = nil, 0
	}
	whole := *text
	*text = shorten.Middle(whole, shorten.MaxError-details)
	if *text == whole && len(cut.Details) == len(st.Proto().GetDetails()) {
		return err
	}
	return status.ErrorProto(cut)
}

// printedError is an error that pkg/shim prints for containerd, which makes it an error of
// its own API.
type printedError struct {
	text  string
	cause error
}

func (e *printedError) Error() string { return e.text }

func (e *printedError) Unwrap() error { return e.cause }

// printedPrefix is room for the runtime's name, which pkg/shim prints before the error.
const printedPrefix = 64

// Printed bounds the error of an action, which passes no interceptor.
func Printed(err error) error {
	if err == nil {
		return nil
	}
	if text := shorten.Middle(err.Error(), shorten.MaxError-printedPrefix); text != err.Error() {
		return &printedError{text: text, cause: err}
	}
	return err
}

// ttrpcCode is the code that the ttrpc server gives an error without one (its
// convertCode), as far as such an error can be long.
func ttrpcCode(err error) codes.Code {
	switch {
	case os.IsExist(err):
		return codes.AlreadyExists
	case os.IsNotExist(err):
		return codes.NotFound
	case os.IsPermission(err):
		return codes.PermissionDenied
	}
	return codes.Unknown
}

const (
	// maxLogText is the size of the longest message or field in a line of the shim's log.
	maxLogText = 4 << 10
	// maxLogStack is the size of the longest message that has the stack of a panic.
	maxLogStack = 32 << 10
)

// Log bounds what is logged from now on.
func Log(logger *logrus.Logger) { logger.AddHook(logBounds{}) }

// logBounds is a hook, as containerd's runner sets output and format later.
type logBounds struct{}

func (logBounds) Levels() []logrus.Level { return logrus.AllLevels }

// Fire changes the entry that is about to be written, which is a copy.
func (logBounds) Fire(entry *logrus.Entry) error {
	limit := maxLogText
	if entry.Level <= log.ErrorLevel {
		limit = maxLogStack
	}
	entry.Message = shorten.Middle(entry.Message, limit)
	for key, value := range entry.Data {
		switch value := value.(type) {
		case string:
			entry.Data[key] = shorten.Middle(value, maxLogText)
		case error:
			if text := value.Error(); len(text) > maxLogText {
				entry.Data[key] = errors.New(shorten.Middle(text, maxLogText))
			}
		case fmt.Stringer:
			entry.Data[key] = shorten.Middle(value.String(), maxLogText)
		case []string, []byte:
			entry.Data[key] = shorten.Middle(fmt.Sprint(value), maxLogText)
		}
	}
	return nil
}
