package bed

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Exec runs a command in the container as a client does, and returns its exit status.
func (b *Bench) Exec(c *Container, id string, args ...string) uint32 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Client.Context(b.Context()), Limit)
	defer cancel()
	spec, err := typeurl.MarshalAnyToProto(&specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		b.Fatal(err)
	}
	service := b.Client.TaskService()
	if _, err := service.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: c.ID, ExecID: id, Spec: spec}); err != nil {
		b.Fatal(err)
	}
	if _, err := service.Start(ctx, &tasks.StartRequest{ContainerID: c.ID, ExecID: id}); err != nil {
		b.Fatal(err)
	}
	exit, err := service.Wait(ctx, &tasks.WaitRequest{ContainerID: c.ID, ExecID: id})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := service.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: c.ID, ExecID: id}); err != nil {
		b.Fatal(err)
	}
	return exit.ExitStatus
}

// Pids returns the container's processes, by their ids outside.
func (b *Bench) Pids(c *Container) []uint32 {
	b.Helper()
	pids, err := c.Pids(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return pids
}

// Pause pauses the container.
func (b *Bench) Pause(c *Container) {
	b.Helper()
	if err := c.Pause(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// Resume resumes the container.
func (b *Bench) Resume(c *Container) {
	b.Helper()
	if err := c.Resume(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// Sleepers lists the arguments of the sleeps from 1001 to 1003 in the container.
func (b *Bench) Sleepers(c *Container) string {
	b.Helper()
	var found []string
	for _, pid := range b.Pids(c) {
		process, err := harness.ProcessByID(int(pid))
		if err != nil || len(process.Cmdline) == 0 {
			continue
		}
		if last := process.Cmdline[len(process.Cmdline)-1]; strings.HasPrefix(last, "100") && last != "1000" {
			found = append(found, last)
		}
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

// Processes returns those processes of the container for which such is true.
func (b *Bench) Processes(c *Container, such func(harness.Process) bool) []harness.Process {
	b.Helper()
	var found []harness.Process
	for _, pid := range b.Pids(c) {
		if process, err := harness.ProcessByID(int(pid)); err == nil && such(process) {
			found = append(found, process)
		}
	}
	return found
}
