package shim

import (
	"context"
	"errors"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// Create reads what the container asks for, and creates it. A Create that fails leaves
// nothing behind, and one whose client has given it up fails.
func (s *service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if err := s.ending.begin(r.ID); err != nil {
		return nil, toGRPC(err)
	}
	created := false
	defer func() { s.ending.done(r.ID, created) }()         // after a panic too
	_ = s.unanswered.Acquire(context.WithoutCancel(ctx), 1) // waits for the end of the shim at most
	defer s.unanswered.Release(1)
	response, err := s.create(ctx, r)
	created = err == nil
	return response, toGRPC(err)
}

// createPlain creates a container without handlers.
func (s *service) createPlain(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	response, err := s.createInner(ctx, r)
	if err != nil {
		return response, err
	}
	if err := s.finishCreate(ctx, r.ID, func() error { return nil }); err != nil {
		return nil, err
	}
	return response, nil
}

// createGrace is from the moment at which the client of a Create gives it up until the
// runtime is killed.
const createGrace = 10 * time.Second

// createInner lets the runc service create the container. That kills the runtime when its
// context ends, in the middle of its work, and then cgroups and processes stay that no
// state of the runtime's knows of. So the runtime gets time to finish.
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

// finishCreate does what is left to do for a container that the runc service has created,
// and undoes it if that fails, or if nobody waits for the container any more.
func (s *service) finishCreate(ctx context.Context, id string, finish func() error) error {
	if err := finish(); err != nil {
		s.undoCreate(ctx, id)
		return &HandlerError{Err: err}
	}
	switch {
	case ctx.Err() != nil:
		s.undoCreate(ctx, id)
		return context.Cause(ctx)
	case s.ending.givenUp(id):
		s.undoCreate(ctx, id)
		return errGivenUp
	}
	return nil
}

var errGivenUp = errors.New("the container was deleted while it was being created")

// undoWait bounds the undoing of a creation.
const undoWait = 10 * time.Second

// undoCreate removes a container whose handlers cannot be prepared.
func (s *service) undoCreate(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
	defer cancel()
	_, killErr := s.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
	_, waitErr := s.TTRPCTaskService.Wait(ctx, &taskapi.WaitRequest{ID: id})
	_, deleteErr := s.TTRPCTaskService.Delete(ctx, &taskapi.DeleteRequest{ID: id})
	if err := errors.Join(killErr, waitErr, deleteErr); err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Error("cannot clean up after a failed Create")
	}
}

// newConfig is what the machine needs to know.
func newConfig(wanted *oci.Lifecycle, settings options.Settings, restored bool) lifecycle.Config {
	config := lifecycle.Config{
		CRI:                     wanted.CRI,
		StopSignal:              wanted.StopSignal,
		GracePeriod:             oci.Seconds(wanted.Block.GetTerminationGracePeriodSeconds()),
		PodGracePeriod:          wanted.PodGracePeriod,
		DefaultPostStartTimeout: settings.PostStartTimeout,
		DefaultGracePeriod:      settings.GracePeriod,
	}
	if !restored {
		config.PreStart, config.PostStart = handlerConfig(wanted.Block.PreStart), handlerConfig(wanted.Block.PostStart)
	}
	config.PreStop, config.OnExit = handlerConfig(wanted.Block.PreStop), handlerConfig(wanted.Block.OnExit)
	return config
}

func handlerConfig(handler *lifecyclev1.Handler) *lifecycle.Handler {
	if handler == nil {
		return nil
	}
	return &lifecycle.Handler{
		Timeout:       oci.Seconds(handler.GetTimeoutSeconds()),
		IgnoreFailure: handler.FailurePolicy == oci.FailurePolicyIgnore,
	}
}

// defaultCgroup is what runc takes for an empty cgroupsPath (libcontainer/specconv, CreateCgroupConfig). Without
// systemd it is relative to the cgroup of whoever calls runc, which may be another one for each controller of cgroup v1.
func defaultCgroup(id string, systemd bool) string {
	if systemd {
		return "system.slice:runc:" + id
	}
	return id
}
