package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
)

// Create has three parts: plan refuses what cannot be done, before anything is done; build
// creates the container and what its handlers need; undo takes back what a failed build
// has done. A Create that fails leaves nothing behind, and a Create whose client has given
// up fails.
func (s *service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (response *taskapi.CreateTaskResponse, err error) {
	if err := s.ending.begin(r.ID); err != nil {
		return nil, toGRPC(err)
	}
	created := false
	defer func() { s.ending.done(r.ID, created) }()         // after a panic too
	_ = s.unanswered.Acquire(context.WithoutCancel(ctx), 1) // blocks only once the shim is ending
	defer s.unanswered.Release(1)
	p, err := s.plan(r)
	if err == nil {
		response, err = s.build(ctx, r, p)
	}
	created = err == nil
	return response, toGRPC(err)
}

// creation is a container that build creates.
type creation struct {
	service    *service
	id, bundle string
	// container and runner are nil for a container without handlers.
	container *container
	runner    *runner.Runner
	// alive ends with the container's loop, which stop ends.
	alive context.Context
	stop  context.CancelFunc
	// made: the runc service has created the container. pid is its init's, 0 if it is
	// restored.
	made bool
	pid  uint32
}

// build carries out the plan.
func (s *service) build(ctx context.Context, r *taskapi.CreateTaskRequest, p plan) (*taskapi.CreateTaskResponse, error) {
	r.Options = p.options
	b := &creation{service: s, id: r.ID, bundle: r.Bundle}
	if err := b.begin(ctx, p.handlers); err != nil {
		return nil, err
	}
	done := false
	defer func() { b.end(ctx, done) }() // after a panic too: the id must not stay taken
	if b.runner != nil && !p.handlers.restored {
		b.runner.Begin(ctx)
	}
	response, err := s.createInner(ctx, r)
	if err != nil {
		return response, err
	}
	b.made, b.pid = true, response.Pid
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	done = true
	if b.container != nil {
		b.container.gate.Created(b.pid, p.handlers.machine.PostStart != nil, p.handlers.machine.OnExit != nil)
	}
	return response, nil
}

// begin starts the loop and the gate of a container with handlers, so that they miss no
// event of its creation.
func (b *creation) begin(ctx context.Context, p *handlersPlan) error {
	if p == nil {
		return nil
	}
	s := b.service
	run := runner.New(p.runner)
	c := newContainer(ctx, containerConfig{
		id: b.id, machine: p.machine, maxTimeout: p.maxTimeout, block: p.runner.Block, handlers: run, events: s.tap,
		observer: observer{id: b.id, events: s.tap, metricsFile: p.metricsFile, counters: s.counters, handlersEnded: &s.handlersEnded},
	})
	if !s.add(c) {
		return &existsError{id: b.id}
	}
	c.gate.Watch()
	alive, stop := context.WithCancel(s.ctx)
	b.container, b.runner, b.alive, b.stop = c, run, alive, stop
	go func() {
		defer stop()
		c.loop(alive)
		c.gate.Forget()
		s.remove(c)
	}()
	return nil
}

// prepare does what is left to do once the runc service has created the container. It
// fails if the client does not wait for the container any more.
func (b *creation) prepare(ctx context.Context) error {
	if b.runner != nil {
		if b.pid == 0 {
			b.runner.Restored()
			return nil
		}
		if err := b.runner.Prepare(int(b.pid), b.container.exited); err != nil {
			return &HandlerError{Err: err}
		}
	}
	if err := b.abandoned(ctx); err != nil || b.runner == nil {
		return err
	}
	b.runner.Park(log.WithLogger(b.alive, log.G(ctx)), b.container.exited)
	return b.abandoned(ctx) // to park takes a while, too
}

// abandoned returns an error if the client does not wait for the container any more.
func (b *creation) abandoned(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case b.service.ending.givenUp(b.id):
		return errGivenUp
	}
	return nil
}

var errGivenUp = errors.New("the container was deleted while it was being created")

// end is called when build returns.
func (b *creation) end(ctx context.Context, done bool) {
	if b.container != nil {
		defer close(b.container.created)
		defer b.runner.Undo() // does nothing if the preparation is finished
	}
	if !done {
		b.undo(ctx)
	}
}

// undo takes back all that build has done.
func (b *creation) undo(ctx context.Context) {
	if b.made {
		b.service.removeCreated(ctx, b.id, b.bundle)
	}
	if b.container == nil {
		return
	}
	if b.made {
		b.container.gate.Undone(b.pid)
	}
	b.container.gate.Forget()
	b.service.remove(b.container)
	b.stop()
}

// createGrace is from the moment at which the client of a Create gives it up until the
// runtime is killed.
const createGrace = 10 * time.Second

// createInner lets the runc service create the container. The runc service kills the
// runtime when its context ends, and then cgroups and processes stay that no state of the
// runtime knows. So the runtime gets time to finish.
func (s *service) createInner(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	patient, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(createGrace):
			cancel()
		case <-patient.Done():
		}
	})
	defer stop()
	return s.TTRPCTaskService.Create(patient, r)
}

// undoWait bounds removeCreated, from its call.
const undoWait = 10 * time.Second

// removeCreated removes a container that the runc service has created.
func (s *service) removeCreated(ctx context.Context, id, bundle string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
	defer cancel()
	killErr := inBundle(bundle, func() error {
		_, err := s.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
		return err
	})
	_, waitErr := s.TTRPCTaskService.Wait(ctx, &taskapi.WaitRequest{ID: id})
	deleteErr := inBundle(bundle, func() error {
		_, err := s.TTRPCTaskService.Delete(ctx, &taskapi.DeleteRequest{ID: id})
		return err
	})
	if err := errors.Join(killErr, waitErr, deleteErr); err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Error("cannot clean up after a failed Create")
	}
}

// inBundle calls again what has failed if the bundle is not there, with a directory in its
// place: the runtime runs only if it can write its log to log.json in it. containerd removes
// the bundle of a Create that it has given up, also while the runtime still creates.
func inBundle(bundle string, call func() error) error {
	err := call()
	if err == nil || os.Mkdir(bundle, 0o700) != nil {
		return err
	}
	defer func() {
		_ = os.Remove(filepath.Join(bundle, "log.json"))
		_ = os.Remove(bundle)
	}()
	return call()
}

// awaitCreation waits until Create returns: another client may be faster than the one that
// waits for its answer.
func (c *container) awaitCreation(ctx context.Context) error {
	select {
	case <-c.created:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-c.created: // both at once: the handler runs, and ends as any aborted one
		return nil
	default:
		return context.Cause(ctx)
	}
}
