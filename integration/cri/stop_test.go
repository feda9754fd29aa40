package cri

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// docs/spec.md#stop-prestop: the signal comes once, after preStop, which knows of it.
// CRI does not say when its grace period ends, so there is no deadline to know.
func TestCRIPreStopDelaysTheSignal(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell(bed.WaitForGo+"env > environment; echo preStop >> signals")+"}}", bed.Obedient)
	stop := c.StopLater(60 * time.Second)
	c.WaitFor("begun")
	c.WantState(cri.ContainerState_CONTAINER_RUNNING)
	if state, err := c.Task().State(b.Context()); err != nil || state.Status != task.Status_RUNNING {
		b.Errorf("state %+v (%v) while preStop runs, want RUNNING", state, err)
	}
	if code, _, err := c.Exec(b.Context(), "true"); code != 0 || err != nil {
		b.Errorf("a command while preStop runs: status %d, %v", code, err)
	}
	c.WantSignals("")
	c.Touch("go")
	c.Stopped(stop)
	c.WantExit(7)
	c.WantSignals("preStop\nTERM\n")
	environment := c.Read("environment")
	for _, want := range []string{"LIFECYCLE_HANDLER=preStop\n", "LIFECYCLE_CONTAINER_ID=" + c.ID + "\n", "LIFECYCLE_SIGNAL=SIGTERM\n"} {
		if !strings.Contains(environment, want) {
			b.Errorf("the handler's environment lacks %q:\n%s", want, environment)
		}
	}
	if strings.Contains(environment, "LIFECYCLE_DEADLINE") {
		b.Errorf("the handler got a deadline, which is unknown under CRI:\n%s", environment)
	}
	c.WantTopics(bed.TopicCreate, bed.TopicStart, "/tasks/exec-added", "/tasks/exec-started", bed.TopicExit, bed.TopicExit, bed.TopicDelete)
}

// docs/spec.md#stop-returns. What CRI gains by it, that its timer is not stretched, shows in
// TestCRIGracePeriodEndsPreStop.
func TestCRIKillReturnsAtOnce(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell(bed.WaitForGo)+"}}", bed.Obedient)
	if _, err := c.Task().Kill(b.Context(), syscall.SIGTERM); err != nil { // would block the test if it waited
		b.Fatal(err)
	}
	c.WaitFor("begun")
	c.WantState(cri.ContainerState_CONTAINER_RUNNING)
	c.Touch("go")
	c.WantExit(7)
	c.WantSignals("TERM\n")
}

// docs/spec.md#stop-failure: the signal is sent.
func TestCRIPreStopFails(t *testing.T) {
	for name, handler := range map[string]string{
		"with a status": bed.Shell("echo preStop >> signals; exit 1"),
		"by its limit":  "timeoutSeconds: 1, " + bed.Shell("echo preStop >> signals; sleep 1000"),
		"at once":       "exec: {command: [/does/not/exist]}",
	} {
		t.Run(name, func(t *testing.T) {
			b := bed.OnCRI(t)
			c := b.RunApp("{preStop: {"+handler+"}}", bed.Obedient)
			c.MustStop(60 * time.Second)
			c.WantExit(7)
			if got := strings.TrimPrefix(c.Read("signals"), "preStop\n"); got != "TERM\n" {
				b.Errorf("signals %q, want TERM once", got)
			}
		})
	}
}

// docs/spec.md#stop-signal: a stop signal under CRI: the one that the image or the pod names.
func TestCRIStopSignal(t *testing.T) {
	for name, edit := range map[string]func(*harness.PodContainerConfig){
		"QUIT":  func(config *harness.PodContainerConfig) { config.Image = harness.ImageBusyboxQuit },
		"WINCH": func(config *harness.PodContainerConfig) { config.Image = harness.ImageBusyboxWinch },
		"USR1": func(config *harness.PodContainerConfig) {
			config.Image, config.StopSignal = harness.ImageBusyboxQuit, cri.Signal_SIGNAL_SIGUSR1
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := bed.OnCRI(t)
			c := b.RunApp("{preStop: {"+bed.Shell(bed.WaitForGo+"echo preStop for $LIFECYCLE_SIGNAL >> signals")+"}}", onSignal(name), edit)
			stop := c.StopLater(60 * time.Second)
			c.WaitFor("begun")
			c.WantSignals("")
			c.Touch("go")
			c.Stopped(stop)
			c.WantExit(7)
			c.WantSignals("preStop for SIG" + name + "\n" + name + "\n")
		})
	}
}

// docs/spec.md#stop-sigkill-cri: the end of the grace period. The
// container gets its signal then, and time to use it: the true exit status shows.
func TestCRIGracePeriodEndsPreStop(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell("sleep 20")+"}}", bed.Obedient)
	took := c.MustStop(6 * time.Second)
	c.WantExit(7)
	c.WantSignals("TERM\n")
	b.Logf("stopped after %s", took)
	if took < 5900*time.Millisecond || took > 15*time.Second {
		b.Errorf("stopped after %s, want about 6 s", took)
	}
	bed.Poll(b.T, "the log to say that preStop was aborted", func() bool { return c.Logged("result=Aborted") })
}

// The same with a container that ignores the signal: SIGKILL comes 2 s later.
func TestCRIGracePeriodEndsPreStopAndContainerStays(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell("sleep 20")+"}}", bed.Forever)
	took := c.MustStop(6 * time.Second)
	c.WantExit(137)
	c.WantSignals("TERM\n")
	b.Logf("stopped after %s", took)
	if took < 7900*time.Millisecond || took > 17*time.Second {
		b.Errorf("stopped after %s, want about 8 s", took)
	}
}

// docs/spec.md#grace-cri: a preStop within the grace period runs to its end, for real.
func TestCRIPreStopWithinGracePeriod(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell("sleep 20; echo preStop >> signals")+"}}", bed.Obedient)
	begin := time.Now()
	stop := c.StopLater(60 * time.Second)
	err := harness.Poll(b.Context(), 2*bed.Limit, "preStop's end", func() (bool, error) { return c.Exists("signals"), nil })
	if err != nil {
		b.Fatal(err)
	}
	c.Stopped(stop)
	c.WantExit(7)
	c.WantSignals("preStop\nTERM\n")
	took := time.Since(begin)
	b.Logf("stopped after %s", took)
	if took < 20*time.Second {
		b.Errorf("stopped after %s, want 20 s", took)
	}
}

// docs/spec.md#grace-cri: under CRI it is CRI's. The block's own, which counts
// elsewhere, does not end preStop or the container.
func TestCRIBlockHasNoDeadline(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell("sleep 3; echo preStop >> signals")+"}, terminationGracePeriodSeconds: 1}", bed.Obedient)
	c.MustStop(60 * time.Second)
	c.WantExit(7)
	c.WantSignals("preStop\nTERM\n")
}

// docs/spec.md#stop-again: CRI's second StopContainer waits for
// the stop under way, another client's signal joins it, and after the signal was
// sent further ones pass.
func TestCRISecondStopJoins(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell(bed.WaitForGo+"echo preStop >> signals")+"}}", bed.Forever)
	first := c.StopLater(60 * time.Second)
	c.WaitFor("begun")
	second := c.StopLater(60 * time.Second)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1} {
		if _, err := c.Task().Kill(b.Context(), signal); err != nil {
			b.Fatal(err)
		}
	}
	c.Touch("go")
	bed.Poll(b.T, "the signal", func() bool { return c.Exists("signals") && c.Read("signals") == "preStop\nTERM\n" })
	if _, err := c.Task().Kill(b.Context(), syscall.SIGUSR1); err != nil {
		b.Fatal(err)
	}
	bed.Poll(b.T, "a further signal", func() bool { return c.Read("signals") == "preStop\nTERM\nUSR1\n" })
	c.MustStop(0)
	c.Stopped(first)
	c.Stopped(second)
	c.WantExit(137)
	c.WantSignals("preStop\nTERM\nUSR1\n")
}

// docs/spec.md#stop-sigkill-cri-otherwise, before a stop: a grace period of 0.
func TestCRIKillHasNoPreStop(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell("touch stopped")+"}}", bed.Forever)
	c.MustStop(0)
	c.WantExit(137)
	c.WantSignals("")
	if c.Exists("stopped") {
		b.Error("preStop has run for a SIGKILL")
	}
}

// docs/spec.md#stop-sigkill-cri-otherwise, after preStop: the end of the grace
// period of a container that has had its signal.
func TestCRIKillAfterTheSignal(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell("echo preStop >> signals")+"}}", bed.Forever)
	took := c.MustStop(3 * time.Second)
	c.WantExit(137)
	c.WantSignals("preStop\nTERM\n")
	if took < 2900*time.Millisecond || took > 30*time.Second {
		b.Errorf("stopped after %s, want about 3 s", took)
	}
}

// docs/spec.md#stop-sigkill-cri, by a second stop that has no
// patience: the container still gets its signal, and 2 s.
func TestCRIKillDuringPreStop(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell(bed.WaitForGo)+"}}", bed.Forever)
	first := c.StopLater(60 * time.Second)
	c.WaitFor("begun")
	took := c.MustStop(0)
	c.Stopped(first)
	c.WantExit(137)
	c.WantSignals("TERM\n")
	if took < 1900*time.Millisecond || took > 30*time.Second {
		b.Errorf("stopped after %s, want about 2 s", took)
	}
}

// docs/spec.md#stop-exit: the page's `nginx -s quit`.
func TestCRIPreStopEndsTheContainer(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell("kill -USR1 1; while :; do sleep 1; done")+"}}", onSignal("USR1"))
	c.MustStop(60 * time.Second)
	c.WantExit(7)
	c.WantSignals("USR1\n")
	c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
}

// docs/spec.md#stop-completed.
func TestCRICompletedContainerHasNoPreStop(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{preStop: {"+bed.Shell("touch stopped")+"}}", []string{"/bin/sh", "-c", "exit 0"})
	c.MustStart()
	if status := c.WantExit(0); status.Reason != "Completed" {
		b.Errorf("reason %q, want Completed", status.Reason)
	}
	c.MustStop(60 * time.Second)
	if c.Exists("stopped") {
		b.Error("preStop has run")
	}
	c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
}

// docs/spec.md#stop-none: without preStop, a signal to a running container is forwarded unchanged.
func TestCRIStopWithoutPreStop(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{postStart: {"+bed.Shell("true")+"}}", bed.Obedient)
	c.MustStop(60 * time.Second)
	c.WantExit(7)
	c.WantSignals("TERM\n")
}

// StopPodSandbox asks for no grace: SIGKILL to every container, and no preStop.
func TestCRIStopPodSandboxHasNoPreStop(t *testing.T) {
	b := bed.OnCRI(t)
	pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{preStop: {" + bed.Shell("touch stopped") + "}}"})
	c := b.Create(pod, bed.Forever)
	c.MustStart()
	c.WaitFor("ready")
	if _, err := pod.Stop(b.Context()); err != nil {
		b.Fatal(err)
	}
	c.WantExit(137)
	c.WantSignals("")
	if c.Exists("stopped") {
		b.Error("preStop has run for a SIGKILL")
	}
}

// docs/spec.md#stop-paused: preStop cannot run, the signal passes.
func TestCRIStopOfPausedContainer(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell("touch stopped")+"}}", bed.Obedient)
	if err := c.Task().Pause(b.Context()); err != nil {
		b.Fatal(err)
	}
	stop := c.StopLater(60 * time.Second)
	bed.Poll(b.T, "the signal to be sent", func() bool { return pending(c, syscall.SIGTERM) })
	if err := c.Task().Resume(b.Context()); err != nil {
		b.Fatal(err)
	}
	c.Stopped(stop)
	c.WantExit(7)
	if c.Exists("stopped") {
		b.Error("preStop has run")
	}
}

// docs/spec.md#delete: of a running container it is refused, and preStop continues.
// RemoveContainer, which is CRI's, kills the container first.
func TestCRIDeleteDuringPreStop(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {"+bed.Shell(bed.WaitForGo)+"}}", bed.Forever)
	first := c.StopLater(60 * time.Second)
	c.WaitFor("begun")
	if _, _, err := c.Task().Delete(b.Context()); err == nil {
		b.Error("a running container is deleted")
	}
	if pids, err := c.Task().Pids(b.Context()); err != nil || len(pids) < 3 {
		b.Errorf("processes %v (%v) after the refused Delete: want preStop's among them", pids, err)
	}
	if err := c.Remove(b.Context()); err != nil {
		b.Fatal(err)
	}
	bed.Await(b.T, first) // or CRI's words for a container that has been removed meanwhile
	c.WantGone()
	c.WantSignals("TERM\n")
}

// pending reports whether the container's process, which is frozen, has been sent
// that signal.
func pending(c *bed.PodContainer, signal syscall.Signal) bool {
	c.B.Helper()
	state, err := c.Task().State(c.B.Context())
	if err != nil {
		c.B.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", state.PID))
	if err != nil {
		c.B.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nShdPnd:\t")
	line, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(line, 16, 64)
	if err != nil {
		c.B.Fatal(err)
	}
	return set&(1<<(signal-1)) != 0
}
