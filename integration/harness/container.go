package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// Container is one container and its task. Its methods are the task service's calls, one each, with
// nothing added or repeated: what a call returns and how long it took is what the shim did (a
// containerd.Task would look at the state before, and retry). Errors are errdefs'.
type Container struct {
	ID         string
	RootFS     string
	OutputFile string // stdout and stderr of the task together

	record containerd.Container
	client *Client
	dir    string
}

// State is a task's state as its shim reports it.
type State struct {
	Status     task.Status
	PID        uint32
	ExitStatus uint32
	ExitedAt   time.Time // zero before the exit
	Took       time.Duration
}

// Create makes the task: runc create, the process does not run yet. Its output goes to OutputFile.
func (c *Container) Create(ctx context.Context) (pid uint32, err error) {
	return c.CreateWith(ctx, &tasks.CreateTaskRequest{Stdout: "file://" + c.OutputFile, Stderr: "file://" + c.OutputFile})
}

// CreateWith is Create with another request: other streams (an empty path is /dev/null), task
// options, a checkpoint. The container's ID is filled in.
func (c *Container) CreateWith(ctx context.Context, req *tasks.CreateTaskRequest) (pid uint32, err error) {
	req.ContainerID = c.ID
	resp, err := c.client.TaskService().Create(c.client.Context(ctx), req)
	return resp.GetPid(), native(err)
}

// Start starts the created task.
func (c *Container) Start(ctx context.Context) (pid uint32, took time.Duration, err error) {
	begin := time.Now()
	resp, err := c.client.TaskService().Start(c.client.Context(ctx), &tasks.StartRequest{ContainerID: c.ID})
	return resp.GetPid(), time.Since(begin), native(err)
}

// Run is Create and Start.
func (c *Container) Run(ctx context.Context) (pid uint32, took time.Duration, err error) {
	if _, err := c.Create(ctx); err != nil {
		return 0, 0, fmt.Errorf("create: %w", err)
	}
	return c.Start(ctx)
}

// Kill sends sig to the container's process.
func (c *Container) Kill(ctx context.Context, sig syscall.Signal) (took time.Duration, err error) {
	begin := time.Now()
	req := &tasks.KillRequest{ContainerID: c.ID, Signal: uint32(sig)}
	_, err = c.client.TaskService().Kill(c.client.Context(ctx), req)
	return time.Since(begin), native(err)
}

// State asks the shim for the task's state.
func (c *Container) State(ctx context.Context) (State, error) {
	begin := time.Now()
	resp, err := c.client.TaskService().Get(c.client.Context(ctx), &tasks.GetRequest{ContainerID: c.ID})
	p := resp.GetProcess()
	s := State{Status: p.GetStatus(), PID: p.GetPid(), ExitStatus: p.GetExitStatus(), Took: time.Since(begin)}
	if at := p.GetExitedAt(); at != nil && s.Status == task.Status_STOPPED {
		s.ExitedAt = at.AsTime()
	}
	return s, native(err)
}

// Wait returns the exit status when the task's process has ended.
func (c *Container) Wait(ctx context.Context) (status uint32, err error) {
	resp, err := c.client.TaskService().Wait(c.client.Context(ctx), &tasks.WaitRequest{ContainerID: c.ID})
	return resp.GetExitStatus(), native(err)
}

// Delete removes the task, which must have ended, and returns its exit status.
func (c *Container) Delete(ctx context.Context) (status uint32, took time.Duration, err error) {
	begin := time.Now()
	resp, err := c.client.TaskService().Delete(c.client.Context(ctx), &tasks.DeleteTaskRequest{ContainerID: c.ID})
	return resp.GetExitStatus(), time.Since(begin), native(err)
}

// Pids lists the processes in the container's cgroup.
func (c *Container) Pids(ctx context.Context) ([]uint32, error) {
	resp, err := c.client.TaskService().ListPids(c.client.Context(ctx), &tasks.ListPidsRequest{ContainerID: c.ID})
	var pids []uint32
	for _, p := range resp.GetProcesses() {
		pids = append(pids, p.Pid)
	}
	return pids, native(err)
}

// Pause freezes the container's processes.
func (c *Container) Pause(ctx context.Context) error {
	_, err := c.client.TaskService().Pause(c.client.Context(ctx), &tasks.PauseTaskRequest{ContainerID: c.ID})
	return native(err)
}

// Resume continues them.
func (c *Container) Resume(ctx context.Context) error {
	_, err := c.client.TaskService().Resume(c.client.Context(ctx), &tasks.ResumeTaskRequest{ContainerID: c.ID})
	return native(err)
}

// Remove takes the container away in any state: SIGKILL, Delete, the record, its directory. Parts
// that are gone already are no error.
func (c *Container) Remove(ctx context.Context) error {
	errs := []error{c.removeTask(ctx)}
	if err := c.record.Delete(c.client.Context(ctx)); err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("record of container %s: %w", c.ID, err))
	}
	errs = append(errs, os.RemoveAll(c.dir))
	return errors.Join(errs...)
}

func (c *Container) removeTask(ctx context.Context) error {
	state, err := c.State(ctx)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil && state.Status != task.Status_STOPPED {
		if _, err := c.Kill(ctx, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("kill of container %s: %w", c.ID, err)
		}
		if _, err := c.Wait(ctx); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("wait for the killed container %s: %w", c.ID, err)
		}
	}
	if _, _, err := c.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete of container %s: %w", c.ID, err)
	}
	return nil
}

// Output is what the task has written so far, stdout and stderr together.
func (c *Container) Output() string {
	text, _ := os.ReadFile(c.OutputFile) // does not exist before the first Create
	return string(text)
}

// native turns a gRPC error into an errdefs error with the same text.
func native(err error) error {
	if err == nil {
		return nil
	}
	return errgrpc.ToNative(err)
}
