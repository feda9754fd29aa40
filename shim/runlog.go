package shim

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// runlog has the runs of a container's handlers until the container is deleted, for the
// status service.
type runlog struct {
	mu   sync.Mutex
	runs []*handlerRun // the first one first
}

// handlerRun is one run of a handler.
type handlerRun struct {
	kind    lifecycle.Kind
	handler *lifecyclev1.Handler
	trial   bool
	began   time.Time
	// limit is when it is aborted, zero if unknown, and limitOwner whose limit it is.
	limit      time.Time
	limitOwner lifecycle.Owner
	progress   hookexec.Progress

	// Below: guarded by runlog.mu. ended and result are zero while it runs.

	// aborted is the first cause for which it was aborted, nil if it was not.
	aborted error
	ended   time.Time
	result  hookexec.Result
}

// keptTrials bounds how many trials a container remembers.
const keptTrials = 4

// begin adds a run. Only trials can be many, so the oldest trial makes room.
func (l *runlog) begin(run *handlerRun) {
	l.mu.Lock()
	defer l.mu.Unlock()
	trials := 0
	for _, earlier := range l.runs {
		if earlier.trial {
			trials++
		}
	}
	if run.trial && trials >= keptTrials {
		oldest := slices.IndexFunc(l.runs, func(earlier *handlerRun) bool { return earlier.trial })
		l.runs = slices.Delete(l.runs, oldest, oldest+1)
	}
	l.runs = append(l.runs, run)
}

// abort records why a run is aborted. The first cause is shown until the run has ended.
func (l *runlog) abort(run *handlerRun, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if run.aborted == nil {
		run.aborted = cause
	}
}

// end records the result of a run.
func (l *runlog) end(run *handlerRun, result hookexec.Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	run.ended, run.result = time.Now(), result
}

// all returns all runs as the status service shows them.
func (l *runlog) all() []*lifecyclev1.HandlerRun {
	l.mu.Lock()
	defer l.mu.Unlock()
	var shown []*lifecyclev1.HandlerRun
	for _, run := range l.runs {
		shown = append(shown, run.show())
	}
	return shown
}

// one returns a run as the status service shows it.
func (l *runlog) one(run *handlerRun) *lifecyclev1.HandlerRun {
	l.mu.Lock()
	defer l.mu.Unlock()
	return run.show()
}

// show is called with runlog.mu held.
func (r *handlerRun) show() *lifecyclev1.HandlerRun {
	what, action := describe(r.handler)
	shown := &lifecyclev1.HandlerRun{
		Handler: r.kind.String(), Type: what, Action: action, StartedAt: timestamppb.New(r.began),
		DeadlineOwner: r.limitOwner.String(), Trial: r.trial,
	}
	if !r.limit.IsZero() {
		shown.Deadline = timestamppb.New(r.limit)
	}
	if r.ended.IsZero() {
		attempts, output, dropped := r.progress.Look()
		shown.Attempts, shown.Output, shown.DroppedBytes = uint32(attempts), output, dropped
		shown.Took = durationpb.New(time.Since(r.began))
		if r.aborted != nil {
			shown.Error = shorten.Error(r.aborted)
		}
		return shown
	}
	shown.Attempts, shown.Output, shown.DroppedBytes = uint32(r.result.Attempts), r.result.Output, r.result.Dropped
	shown.FinishedAt, shown.Took = timestamppb.New(r.ended), durationpb.New(r.ended.Sub(r.began))
	shown.Result, shown.Error, shown.ExitCode = resultOf(r.result)
	shown.LostLines = r.result.LostLines
	shown.BackgroundOutputs = uint32(r.progress.Background())
	if r.result.LogErr != nil {
		shown.LogError = shorten.Error(r.result.LogErr)
	}
	return shown
}

// resultOf returns a result as the schema has it, in events too.
func resultOf(result hookexec.Result) (outcome, message string, exitCode *int32) {
	if result.Err != nil {
		message = shorten.Error(result.Err)
	}
	if result.ExitCode >= 0 {
		code := int32(result.ExitCode)
		exitCode = &code
	}
	return result.Outcome.String(), message, exitCode
}

// maxAction bounds what is shown of a command, in bytes.
const maxAction = 256

// describe returns a handler's type, and what it does, in words.
func describe(handler *lifecyclev1.Handler) (what, action string) {
	switch {
	case handler.GetExec() != nil:
		return "exec", shorten.End(quoted(handler.Exec.Command), maxAction)
	case handler.GetHttpGet() != nil:
		get := handler.HttpGet
		return "httpGet", shorten.End(fmt.Sprintf("%s://%s/%s", strings.ToLower(cmp.Or(get.Scheme, "HTTP")), address(get.Host, get.Port), strings.TrimPrefix(get.Path, "/")), maxAction)
	case handler.GetTcpSocket() != nil:
		return "tcpSocket", address(handler.TcpSocket.Host, handler.TcpSocket.Port)
	case handler.GetSleep() != nil:
		return "sleep", fmt.Sprintf("%ds", handler.Sleep.Seconds)
	}
	return "", ""
}

// address as a handler names it. Without a host the container's own address is used,
// which is known only when the handler runs.
func address(host string, port int32) string {
	return net.JoinHostPort(cmp.Or(host, "(container)"), strconv.Itoa(int(port)))
}

func quoted(words []string) string {
	shown := make([]string, len(words))
	for i, word := range words {
		shown[i] = word
		if word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r == '"' || !strconv.IsPrint(r) }) {
			shown[i] = strconv.Quote(word)
		}
	}
	return strings.Join(shown, " ")
}
