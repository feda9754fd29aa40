package shim

import (
	"context"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/log"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/metrics"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/tap"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// service is containerd's runc task service with handlers around it.
type service struct {
	taskapi.TTRPCTaskService // the runc service

	ctx  context.Context // ends with the shim
	stop context.CancelFunc
	tap  *tap.Tap
	// host runs exec handlers. It is nil if hostErr says why there is none.
	host    *hookexec.Host
	hostErr error
	// counters of the node.
	counters *metrics.Adder
	// handlersEnded counts handlers that have ended, trials too.
	handlersEnded atomic.Uint64
	// ending decides when the shim ends.
	ending *ending
	// unanswered lets the end of the shim wait for Creates and Deletes: each holds one until
	// it is answered, and awaitAnswers takes all.
	unanswered *semaphore.Weighted

	mu sync.RWMutex
	// containers with handlers, by id.
	containers map[string]*container
}

func newService(ctx context.Context, inner taskapi.TTRPCTaskService, ending *ending, events *tap.Tap, host *hookexec.Host, hostErr error) *service {
	ctx, stop := context.WithCancel(ctx)
	ending.shutdown = inner.Shutdown
	return &service{
		TTRPCTaskService: inner, ctx: ctx, stop: stop, ending: ending, tap: events, host: host, hostErr: hostErr,
		counters:   newCounters(ctx),
		unanswered: semaphore.NewWeighted(allUnanswered),
		containers: make(map[string]*container),
	}
}

// all returns the containers with handlers, sorted by id.
func (s *service) all() []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.SortedFunc(maps.Values(s.containers), func(a, b *container) int { return strings.Compare(a.id, b.id) })
}

// container returns the container with handlers that has the id, or nil.
func (s *service) container(id string) *container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.containers[id]
}

// add returns false if the id is taken.
func (s *service) add(c *container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] != nil {
		return false
	}
	s.containers[c.id] = c
	return true
}

// remove forgets a container that is deleted. Another container may have its id by now.
func (s *service) remove(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
	}
}

// Start of a container with handlers calls the runc service when preStart has ended, and
// returns when postStart has ended. If the client's connection is lost nothing changes:
// only the client's deadline counts.
func (s *service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c := s.container(r.ID)
	if c == nil || r.ExecID != "" {
		return s.TTRPCTaskService.Start(ctx, r)
	}
	if err := s.awaitCreation(ctx, c); err != nil {
		return nil, toGRPC(err)
	}
	deadline, _ := ctx.Deadline()
	request := c.ask(lifecycle.Event{Kind: lifecycle.StartRequested, Deadline: deadline})
	switch verdict := request.wait(); verdict.kind {
	case lifecycle.CallStart:
	case lifecycle.Answer: // preStart has failed, or the start was cancelled: the entrypoint does not run
		return nil, toGRPC(verdict.err)
	default:
		return s.TTRPCTaskService.Start(ctx, r)
	}
	response, err := s.startInner(ctx, c, r, deadline)
	c.post(lifecycle.Event{Kind: lifecycle.StartReturned, Err: err})
	if answer := request.wait(); answer.err != nil {
		return nil, toGRPC(answer.err)
	}
	return response, nil
}

// awaitCreation waits until Create returns, for a request that comes before that. While the
// runc service does not know the container, its error is returned.
func (s *service) awaitCreation(ctx context.Context, c *container) error {
	select {
	case <-c.created:
		return nil
	default:
	}
	if _, err := s.TTRPCTaskService.State(ctx, &taskapi.StateRequest{ID: c.id}); err != nil {
		return err
	}
	return c.awaitCreation(ctx)
}

func (s *service) startInner(ctx context.Context, c *container, r *taskapi.StartRequest, deadline time.Time) (_ *taskapi.StartResponse, err error) {
	defer func() { // the machine waits for the result
		if value := recover(); value != nil {
			log.G(c.ctx).Errorf("cannot finish a start: panic in it: %v\n%s", value, debug.Stack())
			err = &panicError{value: value}
		}
	}()
	ctx = context.WithoutCancel(ctx)
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	response, err := s.TTRPCTaskService.Start(ctx, r)
	if err == nil {
		if err := c.handlers.Started(ctx, int(response.Pid), c.exited); err != nil {
			log.G(c.ctx).WithError(err).Error("cannot prepare the handlers of a restored container: they will fail")
		}
	}
	return response, err
}

// State returns CREATED for RUNNING while the start is held.
func (s *service) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	response, err := s.TTRPCTaskService.State(ctx, r)
	if err != nil || r.ExecID != "" || response.Status != task.Status_RUNNING {
		return response, err
	}
	if c := s.container(r.ID); c != nil && c.status.Load().StartHeld {
		response.Status = task.Status_CREATED
	}
	return response, nil
}

// Kill returns at once if it starts preStop: clients start their own timers when it has
// returned (docs/understand/decisions.md).
func (s *service) Kill(ctx context.Context, r *taskapi.KillRequest) (*ptypes.Empty, error) {
	c := s.container(r.ID)
	if c == nil || r.ExecID != "" {
		return s.TTRPCTaskService.Kill(ctx, r)
	}
	// The pid namespace does not end before a parked handler in it has been reaped, by a host
	// that may hang.
	c.handlers.Unpark()
	s.noteExit(ctx, c)
	request := c.ask(lifecycle.Event{Kind: lifecycle.KillRequested, Signal: lifecycle.Signal{Number: r.Signal, All: r.All}})
	answer := request.wait()
	if answer.kind == lifecycle.Forward {
		c.noteSignal(r.Signal)
		return s.passSignal(ctx, c, r)
	}
	return &ptypes.Empty{}, toGRPC(answer.err)
}

// passSignal sends the signal even if the client disconnects: the machine has decided that
// it is sent. Its time limit begins when the runtime's start, which may take longer, has
// returned: until then the runc service does nothing else for the container.
func (s *service) passSignal(ctx context.Context, c *container, r *taskapi.KillRequest) (*ptypes.Empty, error) {
	ctx = context.WithoutCancel(ctx)
	if c.status.Load().Stage == lifecycle.StageStarting {
		_, _ = s.TTRPCTaskService.State(ctx, &taskapi.StateRequest{ID: r.ID}) // it returns when the start has returned
	}
	ctx, cancel := context.WithTimeout(ctx, signalWait)
	defer cancel()
	return s.TTRPCTaskService.Kill(ctx, r)
}

// Wait for a container with an onExit returns when onExit has ended.
func (s *service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	c := s.container(r.ID)
	response, err := s.TTRPCTaskService.Wait(ctx, r)
	if err != nil || c == nil || c.ended == nil || r.ExecID != "" {
		return response, err
	}
	select {
	case <-c.ended:
		return response, nil
	case <-ctx.Done():
		return nil, toGRPC(&waitError{err: context.Cause(ctx)})
	}
}

// Pids never returns an empty list while onExit is pending. When containerd starts it takes
// a shim without processes for a leftover: it requests a Delete, which waits for onExit
// too, and after 5 s forgets the shim, which then never ends (loadShim and
// cleanupShimTask, core/runtime/v2). So if no other process is listed, the one that has
// exited is.
func (s *service) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	response, err := s.TTRPCTaskService.Pids(ctx, r)
	c := s.container(r.ID)
	if c == nil || !c.awaitsOnExit() || len(response.GetProcesses()) > 0 {
		return response, err
	}
	state, stateErr := s.TTRPCTaskService.State(ctx, &taskapi.StateRequest{ID: r.ID})
	if stateErr != nil {
		return response, err
	}
	return &taskapi.PidsResponse{Processes: []*task.ProcessInfo{{Pid: state.Pid}}}, nil
}

// Delete first ends the handlers that still run in a container that has exited.
func (s *service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if r.ExecID == "" {
		s.ending.deleted(r.ID)
	}
	c := s.container(r.ID)
	if c == nil || r.ExecID != "" {
		return s.TTRPCTaskService.Delete(ctx, r)
	}
	_ = s.unanswered.Acquire(context.WithoutCancel(ctx), 1) // waits at most until the shim has ended
	defer s.unanswered.Release(1)
	c.handlers.Unpark()
	// A client that gives a Create up deletes the container. The Create, which may still be
	// preparing the handlers, undoes it: the runc service's Delete would wait for the end of a
	// process that is not killed, and hold the lock that the Create's kill needs.
	if err := s.awaitCreation(ctx, c); err != nil {
		return nil, toGRPC(err)
	}
	if s.container(r.ID) == c && c.status.Load().Stage == lifecycle.StageCreated { // else it has been undone
		// The runc service waits up to 10 s for the end of the output before it lets the runtime
		// kill a process that was not started. containerd gives up after 5 s, and removes the bundle.
		_, _ = s.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: r.ID, Signal: uint32(unix.SIGKILL), All: true}) // it may have exited
	}
	s.noteExit(ctx, c)
	c.endTrialOfExited(ctx)
	verdict := c.ask(lifecycle.Event{Kind: lifecycle.DeleteRequested}).wait()
	if verdict.kind == lifecycle.Answer {
		return nil, toGRPC(verdict.err)
	}
	response, err := s.TTRPCTaskService.Delete(ctx, r)
	if err == nil {
		c.gate.AwaitEnd()
	}
	if verdict.kind == lifecycle.CallDelete {
		c.post(lifecycle.Event{Kind: lifecycle.DeleteReturned, Err: err})
	}
	if err == nil { // the id is free when Delete returns
		<-c.deleted
		s.remove(c)
	}
	return response, err
}

// awaitsOnExit reports whether the container's process has exited, and clients do not learn
// of it before onExit has ended.
func (c *container) awaitsOnExit() bool {
	return c.status.Load().Stage == lifecycle.StageOnExit
}

// exitWait bounds noteExit, from its call.
const exitWait = 200 * time.Millisecond

// noteExit reports an exit to the loop whose event is still on its way: a client that has
// waited for the process must not find it alive. While the runtime's start runs, the runc
// service answers no request and publishes no exit, so there is nothing to ask. Otherwise
// noteExit waits for the event first: a Kill or Delete holds a lock while runc runs, and
// the one goroutine that handles all exits of the pod must not wait for it. When about 30
// exits queued up behind it, the reaper stood still for a second at each, and so did the
// exit of that very runc: a pod of 30 containers took 80 s to stop.
func (s *service) noteExit(ctx context.Context, c *container) {
	if c.status.Load().Stage == lifecycle.StageStarting {
		return
	}
	response, err := s.TTRPCTaskService.State(ctx, &taskapi.StateRequest{ID: c.id})
	if err != nil || response.Status != task.Status_STOPPED {
		return
	}
	timer := time.NewTimer(exitWait)
	defer timer.Stop()
	select {
	case <-c.exited:
	case <-timer.C:
	}
	c.post(lifecycle.Event{Kind: lifecycle.ContainerExited})
}
