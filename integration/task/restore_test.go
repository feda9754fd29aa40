package task

import (
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/typeurl/v2"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// checkpoint the container into a directory. It ends with that.
func checkpoint(c *bed.Container) (dir string) {
	c.B.Helper()
	dir = c.B.TempDir()
	options, err := typeurl.MarshalAnyToProto(&options.CheckpointOptions{Exit: true, ImagePath: dir, WorkPath: c.B.TempDir()})
	if err != nil {
		c.B.Fatal(err)
	}
	_, err = c.B.Client.TaskService().Checkpoint(c.B.Client.Context(c.B.Context()), &tasks.CheckpointTaskRequest{ContainerID: c.ID, Options: options})
	if err != nil {
		c.B.Fatal(err)
	}
	return dir
}

// docs/spec.md#start-restore: the process does not begin, so there is
// no postStart. preStop is run as ever.
func TestRestoredContainer(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		annotations := bed.Annotations{bed.KeyPostStart: bed.Shell("echo postStart >> /signals"), bed.KeyPreStop: bed.Shell("echo preStop >> /signals")}
		c := b.Start(annotations, bed.Obedient)
		c.WaitFor("ready")
		dir := checkpoint(c)
		c.WantExit(137)
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
		if state := c.MustState(); pid == 0 || state.PID != pid || state.Status != task.Status_RUNNING {
			b.Errorf("state %+v of a restored container with pid %d", state, pid)
		}
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		if got := strings.Fields(c.Read("signals")); strings.Join(got, " ") != "postStart preStop TERM" {
			b.Errorf("%q have happened; want postStart at the first start only, then preStop, then TERM", got)
		}
	})
}
