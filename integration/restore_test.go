package integration

import (
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/typeurl/v2"
)

// checkpoint the container into a directory. It ends with that.
func (c *container) checkpoint() (dir string) {
	c.b.Helper()
	dir = c.b.TempDir()
	options, err := typeurl.MarshalAnyToProto(&options.CheckpointOptions{Exit: true, ImagePath: dir, WorkPath: c.b.TempDir()})
	if err != nil {
		c.b.Fatal(err)
	}
	_, err = c.b.client.TaskService().Checkpoint(c.b.client.Context(c.b.Context()), &tasks.CheckpointTaskRequest{ContainerID: c.ID, Options: options})
	if err != nil {
		c.b.Fatal(err)
	}
	return dir
}

// docs/spec.md#start-restore: the process does not begin, so there is
// no postStart. preStop is run as ever.
func TestRestoredContainer(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		annotations := with{keyPostStart: shell("echo postStart >> /signals"), keyPreStop: shell("echo preStop >> /signals")}
		c := b.run(annotations, obedient)
		c.waitFor("ready")
		dir := c.checkpoint()
		c.wantExit(137)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		// containerd 2.4 starts what it creates from a path (core/runtime/v2/shim.go).
		pid, err := c.CreateWith(b.Context(), &tasks.CreateTaskRequest{
			Checkpoint: &types.Descriptor{Annotations: map[string]string{"RestoreFromPath": dir}},
		})
		if err != nil {
			b.Fatal(err)
		}
		if state := c.state(); pid == 0 || state.PID != pid || state.Status != task.Status_RUNNING {
			b.Errorf("state %+v of a restored container with pid %d", state, pid)
		}
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		if got := strings.Fields(c.read("signals")); strings.Join(got, " ") != "postStart preStop TERM" {
			b.Errorf("%q have happened; want postStart at the first start only, then preStop, then TERM", got)
		}
	})
}
