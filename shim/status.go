package shim

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// statusService is lifecycle.v1.Lifecycle.
type statusService struct{ service *service }

// Status implements lifecyclev1.LifecycleService.
func (s *statusService) Status(_ context.Context, r *lifecyclev1.StatusRequest) (*lifecyclev1.StatusResponse, error) {
	containers := s.service.all()
	if r.Id != "" {
		c, err := s.find(r.Id)
		if err != nil {
			return nil, toGRPC(err)
		}
		containers = []*container{c}
	}
	response := &lifecyclev1.StatusResponse{Shim: s.service.process(r.Collect)}
	for _, c := range containers {
		response.Containers = append(response.Containers, c.told())
	}
	fit(response)
	return response, nil
}

// maxStatus is the size of the largest answer of the status service. It leaves room for
// what a client may add to the message, which ttrpc bounds too (maxAnswer).
const maxStatus = 3 << 20

// leastText is how much of a text is always shown.
const leastText = 64

// fit cuts the longest texts until the answer has at most maxStatus bytes, all of them
// to the same length, so that one container's output does not hide another's. If not
// even leastText of each fits, the last containers are left out.
func fit(response *lifecyclev1.StatusResponse) {
	var runs []*lifecyclev1.HandlerRun
	for _, c := range response.Containers {
		runs = append(runs, c.Runs...)
	}
	size := func() int { return proto.Size(response) }
	response.Cut = fitRuns(runs, size)
	for size() > maxStatus {
		kept := len(response.Containers) * 3 / 4
		response.LeftOut += uint32(len(response.Containers) - kept)
		response.Containers = response.Containers[:kept]
	}
}

// fitRuns cuts texts of runs until size returns at most maxStatus, and reports whether
// it has cut any.
func fitRuns(runs []*lifecyclev1.HandlerRun, size func() int) (cut bool) {
	for limit := maxStatus; size() > maxStatus && limit >= leastText; limit /= 2 {
		cut = true
		for _, run := range runs {
			cutOutput(run, limit)
			run.Error = shorten.Middle(run.Error, limit)
			run.LogError = shorten.Middle(run.LogError, limit)
			run.Action = shorten.Middle(run.Action, limit)
		}
	}
	return cut
}

// cutOutput keeps the end of the output.
func cutOutput(run *lifecyclev1.HandlerRun, limit int) {
	if over := len(run.Output) - limit; over > 0 {
		shown := strings.ToValidUTF8(run.Output[over:], "")
		run.DroppedBytes += int64(len(run.Output) - len(shown))
		run.Output = shown
	}
}

func (s *statusService) find(id string) (*container, error) {
	if c := s.service.container(id); c != nil {
		return c, nil
	}
	return nil, &notFoundError{fmt.Sprintf("container %q: this shim serves no container with handlers of that id", id)}
}

// Run implements lifecyclev1.LifecycleService. It ends with the client's
// connection: it was the client's wish.
func (s *statusService) Run(ctx context.Context, r *lifecyclev1.RunRequest) (*lifecyclev1.RunResponse, error) {
	c, err := s.find(r.Id)
	if err != nil {
		return nil, toGRPC(err)
	}
	run, err := c.try(ctx, r.Handler)
	if err != nil {
		return nil, toGRPC(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	response := &lifecyclev1.RunResponse{Run: run.told()}
	response.Cut = fitRuns([]*lifecyclev1.HandlerRun{response.Run}, func() int { return proto.Size(response) })
	return response, nil
}

// handlerRun is one run of a handler, kept until the container is deleted.
type handlerRun struct {
	kind    lifecycle.Kind
	handler *lifecyclev1.Handler
	trial   bool
	began   time.Time
	// limit is when it is ended, zero where unknown, and limitOwner whose it is.
	limit      time.Time
	limitOwner lifecycle.Owner
	progress   hookexec.Progress

	// Below: guarded by container.mu, zero while it runs.
	aborted error // why, from then on
	ended   time.Time
	result  hookexec.Result
}

// told is called with container.mu held.
func (r *handlerRun) told() *lifecyclev1.HandlerRun {
	what, action := describe(r.handler)
	told := &lifecyclev1.HandlerRun{
		Handler: r.kind.String(), Type: what, Action: action, StartedAt: timestamppb.New(r.began),
		DeadlineOwner: r.limitOwner.String(), Trial: r.trial,
	}
	if !r.limit.IsZero() {
		told.Deadline = timestamppb.New(r.limit)
	}
	if r.ended.IsZero() {
		attempts, output, dropped := r.progress.Look()
		told.Attempts, told.Output, told.DroppedBytes = uint32(attempts), output, dropped
		told.Took = durationpb.New(time.Since(r.began))
		if r.aborted != nil {
			told.Error = shorten.Error(r.aborted)
		}
		return told
	}
	told.Attempts, told.Output, told.DroppedBytes = uint32(r.result.Attempts), r.result.Output, r.result.Dropped
	told.FinishedAt, told.Took = timestamppb.New(r.ended), durationpb.New(r.ended.Sub(r.began))
	told.Result, told.Error, told.ExitCode = resultOf(r.result)
	told.LostLines = r.result.LostLines
	told.BackgroundOutputs = uint32(r.progress.Background())
	if r.result.LogErr != nil {
		told.LogError = shorten.Error(r.result.LogErr)
	}
	return told
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
	return convert(result).Outcome.String(), message, exitCode
}

// maxAction bounds what is told of a command, in bytes.
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

// told is what the status service says of the container.
func (c *container) told() *lifecyclev1.ContainerStatus {
	status := c.status.Load()
	told := &lifecyclev1.ContainerStatus{
		Id: c.id, Phase: status.Stage.String(), StartHeld: status.StartHeld, PendingSignal: status.Pending,
	}
	if !status.Deadline.IsZero() {
		told.Deadline = timestamppb.New(status.Deadline)
	}
	for _, name := range oci.Handlers {
		if oci.HandlerOf(c.block, name) != nil {
			told.Handlers = append(told.Handlers, name)
		}
	}
	slices.Sort(told.Handlers)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, run := range c.runs {
		told.Runs = append(told.Runs, run.told())
	}
	return told
}

// keptTrials bounds how many of an operator's tries a container remembers.
const keptTrials = 4

// record begins a run. Only trials can be many, and the oldest of them goes.
func (c *container) record(run *handlerRun) {
	c.mu.Lock()
	defer c.mu.Unlock()
	trials := 0
	for _, earlier := range c.runs {
		if earlier.trial {
			trials++
		}
	}
	if run.trial && trials >= keptTrials {
		oldest := slices.IndexFunc(c.runs, func(earlier *handlerRun) bool { return earlier.trial })
		c.runs = slices.Delete(c.runs, oldest, oldest+1)
	}
	c.runs = append(c.runs, run)
}

// finish ends a run.
func (c *container) finish(run *handlerRun, result hookexec.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	run.ended, run.result = time.Now(), result
}

// Topics of the shim's own events (docs/spec.md#events).
const (
	topicStarted  = "/lifecycle/handler-started"
	topicFinished = "/lifecycle/handler-finished"
)

func (c *container) publish(topic string, event any) {
	_ = c.events.Publish(c.ctx, topic, event) // never fails: it only queues
}

func (c *container) publishStarted(run *handlerRun) {
	what, _ := describe(run.handler)
	c.publish(topicStarted, &lifecyclev1.HandlerStarted{
		ContainerId: c.id, Handler: run.kind.String(), Type: what, Trial: run.trial,
	})
}

func (c *container) publishFinished(run *handlerRun) {
	what, _ := describe(run.handler)
	event := &lifecyclev1.HandlerFinished{
		ContainerId: c.id, Handler: run.kind.String(), Type: what, Trial: run.trial,
		Attempts: uint32(run.result.Attempts), Took: durationpb.New(run.ended.Sub(run.began)),
	}
	event.Result, event.Message, event.ExitCode = resultOf(run.result)
	c.publish(topicFinished, event)
}
