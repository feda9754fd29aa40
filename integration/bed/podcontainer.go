package bed

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Graced returns the time from the stop signal to the exit. Of a failed start, it is the part that a busy machine affects least.
func (c *PodContainer) Graced() time.Duration {
	c.B.Helper()
	exited := c.ExitedAt()
	noted, err := os.Stat(c.Path("signals"))
	if err != nil {
		c.B.Fatal(err)
	}
	return exited.Sub(noted.ModTime())
}

// ExitedAt returns the time of the exit, from its event.
func (c *PodContainer) ExitedAt() time.Time {
	c.B.Helper()
	event, err := c.B.Events.WaitFor(c.B.Context(), Limit, c.ID, TopicExit)
	if err != nil {
		c.B.Fatal(err)
	}
	exited, known := event.Value.(*eventstypes.TaskExit)
	if !known {
		c.B.Fatalf("%+v", event)
	}
	return exited.ExitedAt.AsTime()
}

// CRIGrace is the default grace period.
const CRIGrace = 30 * time.Second

// PodContainer is a container under test.
type PodContainer struct {
	*harness.PodContainer
	files // its working directory
	B     *PodBench
}

// Hold starts the container, and waits until its postStart, a WaitForGo, runs.
func (c *PodContainer) Hold() <-chan Answer {
	c.B.Helper()
	result := c.StartLater(c.B.Context())
	c.WaitFor("begun")
	return result
}

// MustStart starts the container, which must succeed.
func (c *PodContainer) MustStart() {
	c.B.Helper()
	if r := Await(c.B.T, c.StartLater(c.B.Context())); r.Err != nil {
		c.B.Fatal(r.Err)
	}
}

// StartLater starts the container in the background.
func (c *PodContainer) StartLater(ctx context.Context) <-chan Answer {
	return Later(func() (time.Duration, error) { return c.Start(ctx) })
}

// StopLater stops the container in the background.
func (c *PodContainer) StopLater(timeout time.Duration) <-chan Answer {
	return Later(func() (time.Duration, error) { return c.Stop(c.B.Context(), timeout) })
}

// MustStop stops the container, which must succeed.
func (c *PodContainer) MustStop(timeout time.Duration) (took time.Duration) {
	c.B.Helper()
	return c.Stopped(c.StopLater(timeout))
}

// Stopped waits for a stop, which must succeed.
func (c *PodContainer) Stopped(result <-chan Answer) (took time.Duration) {
	c.B.Helper()
	r := Await(c.B.T, result)
	if r.Err != nil {
		c.B.Fatal(r.Err)
	}
	return r.Took
}

// MustStatus returns the status that CRI has of the container.
func (c *PodContainer) MustStatus() *cri.ContainerStatus {
	c.B.Helper()
	status, err := c.Status(c.B.Context())
	if err != nil {
		c.B.Fatal(err)
	}
	return status
}

// WantState fails the test unless CRI has this state of the container.
func (c *PodContainer) WantState(want cri.ContainerState) {
	c.B.Helper()
	if got := c.MustStatus().State; got != want {
		c.B.Errorf("CRI says %s, want %s", got, want)
	}
}

// WantExit waits until CRI has the exit, which it gets from an event.
func (c *PodContainer) WantExit(code int32) *cri.ContainerStatus {
	c.B.Helper()
	var status *cri.ContainerStatus
	Poll(c.B.T, "the container's exit", func() bool {
		status = c.MustStatus()
		return status.State == cri.ContainerState_CONTAINER_EXITED
	})
	if status.ExitCode != code {
		c.B.Errorf("exit code %d, want %d: %v", status.ExitCode, code, status)
	}
	return status
}

// WantFailedStart checks both texts that the kubelet gets: the error, and the message of the status.
func (c *PodContainer) WantFailedStart(err error, parts ...string) {
	c.B.Helper()
	WantError(c.B.T, err, parts...)
	c.WantStartError(parts...)
}

// WantStartError checks the status that CRI keeps after a start has failed.
func (c *PodContainer) WantStartError(parts ...string) {
	c.B.Helper()
	const startError = 128
	status := c.WantExit(startError)
	if status.Reason != "StartError" {
		c.B.Errorf("reason %q, want StartError", status.Reason)
	}
	WantError(c.B.T, errors.New(status.Message), parts...)
}

// WantGone waits until the shim does not know the container any more.
func (c *PodContainer) WantGone() {
	c.B.Helper()
	Poll(c.B.T, "the task to go", func() bool {
		_, err := c.Task().State(c.B.Context())
		return errdefs.IsNotFound(err)
	})
}

// WantSignals compares the signals that the container has noted, one a line.
func (c *PodContainer) WantSignals(want string) {
	c.B.Helper()
	got := ""
	if c.Exists("signals") {
		got = c.Read("signals")
	}
	if got != want {
		c.B.Errorf("signals %q, want %q", got, want)
	}
}

// WantTopics waits for these events of the container's task.
func (c *PodContainer) WantTopics(want ...string) {
	c.B.Helper()
	wantTopics(c.B.T, func() []string { return c.B.Events.Topics(c.ID) }, want...)
}

// Logged reports whether a line of the log about this container has all these words.
func (c *PodContainer) Logged(words ...string) bool {
	for line := range strings.Lines(c.B.Daemon.Log()) {
		if !strings.Contains(line, c.ID) {
			continue
		}
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			return true
		}
	}
	return false
}
