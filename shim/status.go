package shim

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
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
		response.Containers = append(response.Containers, c.show())
	}
	fit(response)
	return response, nil
}

// maxStatus is the size of the largest answer of the status service. It leaves room for
// what a client may add to the message, which ttrpc bounds too (package bounds).
const maxStatus = 3 << 20

// leastText is how much of each text is always shown.
const leastText = 64

// fit cuts the longest texts until the answer has at most maxStatus bytes. It cuts all of
// them to the same length, so that one container's output does not hide another's. If even
// leastText of each does not fit, the last containers are left out.
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

// fitRuns cuts texts of runs until size returns at most maxStatus, and reports whether it
// has cut any.
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

// Run implements lifecyclev1.LifecycleService. The run ends with the client's connection:
// it runs for that client alone.
func (s *statusService) Run(ctx context.Context, r *lifecyclev1.RunRequest) (*lifecyclev1.RunResponse, error) {
	c, err := s.find(r.Id)
	if err != nil {
		return nil, toGRPC(err)
	}
	run, err := c.try(ctx, r.Handler)
	if err != nil {
		return nil, toGRPC(err)
	}
	response := &lifecyclev1.RunResponse{Run: c.runs.one(run)}
	response.Cut = fitRuns([]*lifecyclev1.HandlerRun{response.Run}, func() int { return proto.Size(response) })
	return response, nil
}

// show returns what the status service shows of the container.
func (c *container) show() *lifecyclev1.ContainerStatus {
	status := c.status.Load()
	shown := &lifecyclev1.ContainerStatus{
		Id: c.id, Phase: status.Stage.String(), StartHeld: status.StartHeld, PendingSignal: status.Pending, Runs: c.runs.all(),
	}
	if !status.Deadline.IsZero() {
		shown.Deadline = timestamppb.New(status.Deadline)
	}
	for _, name := range oci.Handlers {
		if oci.HandlerOf(c.block, name) != nil {
			shown.Handlers = append(shown.Handlers, name)
		}
	}
	slices.Sort(shown.Handlers)
	return shown
}
