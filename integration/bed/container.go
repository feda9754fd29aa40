package bed

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Container is a container under test.
type Container struct {
	*harness.Container
	files // its root filesystem
	B     *Bench
}

// Annotations are a container's annotations.
type Annotations map[string]string

// NewContainer makes the record of a container, which the test's end removes.
func (b *Bench) NewContainer(annotations Annotations, args []string, edit ...func(*harness.ContainerConfig)) *Container {
	b.Helper()
	b.serial++
	config := harness.ContainerConfig{
		ID: fmt.Sprintf("c%d", b.serial), Args: args, Runtime: Runtime, Options: b.Options(""),
		Annotations: annotations, CgroupParent: b.Target.CgroupParent(),
	}
	for _, e := range edit {
		e(&config)
	}
	c, err := b.Client.NewContainer(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		if err := c.Remove(ctx); err != nil {
			b.Error(err)
		}
	})
	return &Container{Container: c, files: files{b.T, c.RootFS}, B: b}
}

// Start creates and starts a container, which must succeed.
func (b *Bench) Start(annotations Annotations, args []string, edit ...func(*harness.ContainerConfig)) *Container {
	b.Helper()
	c := b.NewContainer(annotations, args, edit...)
	if _, _, err := c.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
	return c
}

// StartLater creates the container and starts it in the background.
func (b *Bench) StartLater(annotations Annotations, args []string, edit ...func(*harness.ContainerConfig)) (*Container, <-chan Answer) {
	b.Helper()
	c := b.NewContainer(annotations, args, edit...)
	if _, err := c.Create(b.Context()); err != nil {
		b.Fatal(err)
	}
	return c, c.StartLater()
}

// StartLater starts the container in the background.
func (c *Container) StartLater() <-chan Answer {
	return Later(func() (time.Duration, error) { _, took, err := c.Start(c.B.Context()); return took, err })
}

// MustState returns the state of the task, which must exist.
func (c *Container) MustState() harness.State {
	c.B.Helper()
	state, err := c.State(c.B.Context())
	if err != nil {
		c.B.Fatal(err)
	}
	return state
}

// WantExit waits for the container's exit and its status.
func (c *Container) WantExit(status uint32) {
	c.B.Helper()
	ctx, cancel := context.WithTimeout(c.B.Context(), Limit)
	defer cancel()
	got, err := c.Wait(ctx)
	if err != nil {
		c.B.Fatal(err)
	}
	if got != status {
		c.B.Errorf("exit status %d, want %d", got, status)
	}
}

// End kills the container and deletes its task.
func (c *Container) End(status uint32) {
	c.B.Helper()
	if _, err := c.Kill(c.B.Context(), syscall.SIGKILL); err != nil {
		c.B.Fatal(err)
	}
	c.WantExit(status)
	c.DeleteTask()
}

// DeleteTask removes the task of a container that has exited.
func (c *Container) DeleteTask() {
	c.B.Helper()
	if _, _, err := c.Delete(c.B.Context()); err != nil {
		c.B.Fatal(err)
	}
}

// Signal sends a signal, which must be accepted.
func (c *Container) Signal(signal syscall.Signal) time.Duration {
	c.B.Helper()
	took, err := c.Kill(c.B.Context(), signal)
	if err != nil {
		c.B.Fatal(err)
	}
	return took
}
