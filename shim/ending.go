package shim

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/log"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/launch"
)

// When the shim ends.
//
// containerd requests a Shutdown after each Delete and after each failed Create. The runc
// service obeys if it has no container, even while one is being created: the process exits
// in the middle of runc's work, and the client of the Create gets "ttrpc: closed". In a
// pod's shared shim a Create may also be on its way: the start action may have returned
// the address of a shim that is about to end.
//
// Here a Shutdown is put off while a Create is under way or announced, and done later. Once
// the end is decided the sockets are removed at once, so that the start action finds no
// shim and starts another one. Both happen under one lock: an announced Create finds a
// shim that stays, or none.

const (
	// expectWait is from the announcement of a Create until the shim stops waiting for it.
	// containerd connects, activates mounts and may call "-info" in that time.
	expectWait = 30 * time.Second
	// idleWait is from a failed Create in a shim without containers until the shim ends
	// without a request. containerd requests a Shutdown at once, if it can.
	idleWait = 10 * time.Second
	// bundlePause is between two checks whether the bundle of the shim's first container
	// still exists, before its Create.
	bundlePause = time.Second
)

// ending decides when the shim ends. It is the shutdown.Service of the runc service.
type ending struct {
	shutdown.Service // containerd's runner's
	// shutdown is the runc service's Shutdown, which calls ending.Shutdown unless there are
	// containers.
	shutdown func(context.Context, *taskapi.ShutdownRequest) (*ptypes.Empty, error)
	// sockets that the shim listens on, the task API's first.
	sockets launch.Sockets
	// callbacks that the runc service has registered. They remove the task API's socket.
	callbacks []func(context.Context) error

	mu sync.Mutex
	// creating are the ids of the Creates under way. The value is true if the client has
	// given up the Create.
	creating map[string]bool
	// expected are the announced Creates, by id.
	expected map[string]*expectation
	// idle fires if no Shutdown comes after a failed Create.
	idle *time.Timer
	// due: a Shutdown was put off, or no client is left to request one.
	due bool
	// ended: the end is decided.
	ended bool
}

// expectation is one announced Create. ending.mu guards it.
type expectation struct{ timer *time.Timer }

func newEnding(service shutdown.Service, sockets launch.Sockets) *ending {
	return &ending{Service: service, sockets: sockets, creating: map[string]bool{}, expected: map[string]*expectation{}}
}

// RegisterCallback is called by the runc service when it is made.
func (e *ending) RegisterCallback(callback func(context.Context) error) {
	e.callbacks = append(e.callbacks, callback)
}

// Shutdown is called by the runc service, in a call of e.shutdown, which is made with mu
// held.
func (e *ending) Shutdown() {
	e.leave(context.Background())
	e.Service.Shutdown()
}

// leave removes the sockets, the task API's last: while it accepts connections, the start
// action puts no other shim's socket at any of their paths. It is called with mu held.
func (e *ending) leave(ctx context.Context) {
	if e.ended {
		return
	}
	e.ended = true
	if len(e.sockets) > 1 {
		e.sockets[1:].Remove()
	}
	for _, callback := range e.callbacks {
		if err := callback(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.G(ctx).WithError(err).Warn("cannot remove the shim's socket")
		}
	}
	if len(e.sockets) > 0 {
		e.sockets[:1].Remove()
	}
}

// close is for an end that no Shutdown has requested, such as by a signal.
func (e *ending) close(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leave(ctx)
}

// requested answers a client's Shutdown.
func (e *ending) requested(ctx context.Context, r *taskapi.ShutdownRequest) (*ptypes.Empty, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveUp(r.ID)
	if e.busy() {
		e.due = true
		return &ptypes.Empty{}, nil
	}
	return e.shutdown(ctx, r)
}

// deleted is called when the Delete of a container is requested: its client does not wait
// for the Create any more.
func (e *ending) deleted(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveUp(id)
	e.settle()
}

// giveUp is called with mu held.
func (e *ending) giveUp(id string) {
	e.arrived(id)
	if _, under := e.creating[id]; under {
		e.creating[id] = true
	}
}

// busy reports whether a Create is under way or will come. It is called with mu held.
func (e *ending) busy() bool { return len(e.creating)+len(e.expected) > 0 }

// settle does a Shutdown that was put off, if it can be done now. It is called with mu held.
func (e *ending) settle() {
	if !e.due || e.busy() || e.ended {
		return
	}
	e.due = false
	defer func() { // this runs in a timer's goroutine, or in another request
		if value := recover(); value != nil {
			log.L.Errorf("cannot shut the shim down: panic in the request: %v\n%s", value, debug.Stack())
		}
	}()
	if _, err := e.shutdown(context.Background(), &taskapi.ShutdownRequest{}); err != nil {
		log.L.WithError(err).Error("cannot shut the shim down")
	}
}

// begin is called when a Create arrives. It fails if the Create comes too late, or if the
// container is being created already.
func (e *ending) begin(id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return &endingError{id: id}
	}
	if _, under := e.creating[id]; under {
		return &existsError{id: id}
	}
	e.arrived(id)
	e.creating[id] = false
	if e.idle != nil {
		e.idle.Stop()
	}
	return nil
}

// done is called when the Create returns.
func (e *ending) done(id string, created bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.creating, id)
	if created {
		e.due = false // a Shutdown follows its Delete
		return
	}
	if e.settle(); !e.ended && !e.busy() {
		e.idle = time.AfterFunc(idleWait, e.end)
	}
}

// givenUp reports whether the client has given up a Create that is under way.
func (e *ending) givenUp(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.creating[id]
}

// expect announces a Create. It returns false if the Create would come too late.
func (e *ending) expect(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return false
	}
	e.arrived(id)
	x := &expectation{}
	x.timer = time.AfterFunc(expectWait, func() { e.giveUpExpected(id, x) })
	e.expected[id] = x
	return true
}

// giveUpExpected stops waiting for an announced Create, unless it was announced again.
func (e *ending) giveUpExpected(id string, x *expectation) {
	e.mu.Lock()
	if e.expected[id] == x {
		delete(e.expected, id)
	}
	e.mu.Unlock()
	e.end()
}

// end ends a shim without containers, which no client would end.
func (e *ending) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.due = true
	e.settle()
}

// arrived is called with mu held.
func (e *ending) arrived(id string) {
	if x := e.expected[id]; x != nil {
		x.timer.Stop()
		delete(e.expected, id)
	}
}

// expectFirst announces the Create of the container that the shim was started for. The shim
// waits for it until containerd removes the bundle, which containerd does after any
// failure.
func (e *ending) expectFirst(id, bundle string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := &expectation{}
	x.timer = time.AfterFunc(bundlePause, func() {
		if _, err := os.Stat(bundle); errors.Is(err, fs.ErrNotExist) {
			e.giveUpExpected(id, x)
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.expected[id] == x {
			x.timer.Reset(bundlePause)
		}
	})
	e.expected[id] = x
}

// Shutdown ends the shim if it serves no container, and none is being created.
func (s *service) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*ptypes.Empty, error) {
	return s.ending.requested(ctx, r)
}

// launchService is lifecycle.v1.Launch.
type launchService struct{ service *service }

// Expect implements lifecyclev1.LaunchService.
func (l *launchService) Expect(_ context.Context, r *lifecyclev1.ExpectRequest) (*lifecyclev1.ExpectResponse, error) {
	return &lifecyclev1.ExpectResponse{Accepted: l.service.ending.expect(r.Id)}, nil
}

const (
	allUnanswered = math.MaxInt64
	// answerWait bounds awaitAnswers, from its call: a runtime may hang.
	answerWait = 2 * time.Second
)

// end is called when the shim ends; the process exits when it has returned. The runc
// service forgets a container before it publishes its TaskDelete, so the Shutdown that
// follows another container's Delete may come in between.
func (s *service) end(ctx context.Context) error {
	s.ending.close(ctx)
	s.awaitAnswers(ctx)
	s.stop()
	s.tap.Flush(ctx)
	s.flushCounts(ctx)
	launch.LeaveSockets()
	return nil // an error would make the shim exit before it has cleaned up
}

// awaitAnswers waits until the Creates and Deletes under way have been answered.
func (s *service) awaitAnswers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWait)
	defer cancel()
	if err := s.unanswered.Acquire(ctx, allUnanswered); err != nil {
		log.G(ctx).Error("cannot wait any longer for a Create or a Delete: its client gets no answer")
		return
	}
	s.unanswered.Release(allUnanswered)
}
