package cri

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// docs/spec.md#start-none: as without the shim.
func TestCRIStartWithoutHandlers(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.Create(b.Pod(nil), bed.Obedient)
	c.MustStart()
	c.WantState(cri.ContainerState_CONTAINER_RUNNING)
	c.WaitFor("ready")
	c.MustStop(bed.Limit)
	c.WantExit(7)
	c.WantSignals("TERM\n")
	c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
}

// docs/spec.md#start-hold, docs/spec.md#start-state, docs/spec.md#start-success. The pod's annotation reaches
// the pause container too, which has no handlers: else the pod would not run.
func TestCRIStartIsHeld(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {"+bed.Shell(bed.WaitForGo+"echo hi > message")+"}}", bed.Forever)
	result := c.Hold()
	c.WaitFor("ready") // the entrypoint runs meanwhile
	c.WantState(cri.ContainerState_CONTAINER_CREATED)
	if state, err := c.Task().State(b.Context()); err != nil || state.Status != task.Status_CREATED || state.PID == 0 {
		b.Errorf("state %+v (%v) while postStart runs, want CREATED with a pid", state, err)
	}
	if topics := b.Events.Topics(c.ID); strings.Contains(strings.Join(topics, " "), bed.TopicStart) {
		b.Errorf("TaskStart is published while postStart runs: %v", topics)
	}
	if _, _, err := c.Exec(b.Context(), "true"); err == nil {
		b.Error("CRI runs a command in a container that it calls created")
	}
	c.Touch("go")
	r := bed.Await(b.T, result)
	if r.Err != nil {
		b.Fatal(r.Err)
	}
	if got := c.Read("message"); got != "hi\n" {
		b.Errorf("message %q", got)
	}
	status := c.MustStatus()
	if status.State != cri.ContainerState_CONTAINER_RUNNING || status.StartedAt == 0 {
		b.Errorf("CRI says %v after postStart, want RUNNING", status)
	}
	if code, output, err := c.Exec(b.Context(), "cat", "message"); code != 0 || output != "hi\n" {
		b.Errorf("a command in the container: status %d, %q, %v", code, output, err)
	}
	c.MustStop(0)
	c.WantTopics(bed.TopicCreate, bed.TopicStart, "/tasks/exec-added", "/tasks/exec-started", bed.TopicExit, bed.TopicExit, bed.TopicDelete)
}

// docs/spec.md#start-state: CRI refuses every exec, but containerd's own clients may.
func TestCRIHeldContainerServesRequests(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {"+bed.Shell(bed.WaitForGo)+"}}", bed.Obedient)
	result := c.Hold()
	bed.Poll(b.T, "more processes than the entrypoint's two", func() bool {
		pids, err := c.Task().Pids(b.Context())
		return err == nil && len(pids) > 2
	})
	waited := bed.Later(func() (time.Duration, error) { _, err := c.Task().Wait(b.Context()); return 0, err })
	c.Touch("go")
	if r := bed.Await(b.T, result); r.Err != nil {
		b.Fatal(r.Err)
	}
	c.MustStop(0)
	if r := bed.Await(b.T, waited); r.Err != nil {
		b.Errorf("a wait that began during the hold: %v", r.Err)
	}
}

// docs/spec.md#start-failure: the words reach the kubelet, preStop has run, the container
// is gone.
func TestCRIPostStartFails(t *testing.T) {
	b := bed.OnCRI(t)
	block := "{postStart: {" + bed.Shell(bed.WaitForReady+"echo last words >&2; exit 3") + "}, preStop: {" + bed.Shell("echo preStop >> signals") + "}}"
	c := b.App(block, bed.Obedient)
	_, err := c.Start(b.Context())
	c.WantFailedStart(err, "postStart handler failed: exit status 3: last words")
	c.WantSignals("preStop\nTERM\n")
	c.WantGone()
	c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
}

// docs/spec.md#start-failure: the container gets the block's stop signal.
func TestCRIPostStartFailsWithStopSignal(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{stopSignal: SIGUSR1, postStart: {"+bed.Shell(bed.WaitForReady+"exit 1")+"}}", onSignal("USR1"))
	_, err := c.Start(b.Context())
	c.WantFailedStart(err, "postStart handler failed: exit status 1")
	c.WantSignals("USR1\n")
}

// docs/spec.md#start-failure: the grace period of a container that stays is the block's,
// else the pod's as the kubelet sets it.
func TestCRIPostStartFailsGracePeriod(t *testing.T) {
	for name, grace := range map[string]struct{ block, pod string }{
		"of the pod":   {block: "", pod: "2"},
		"of the block": {block: ", terminationGracePeriodSeconds: 2", pod: "600"},
	} {
		t.Run(name, func(t *testing.T) {
			b := bed.OnCRI(t)
			c := b.App("{postStart: {"+bed.Shell(bed.WaitForReady+"exit 1")+"}"+grace.block+"}", bed.Forever,
				func(config *harness.PodContainerConfig) {
					config.Annotations = bed.Annotations{bed.KeyGrace: grace.pod}
				})
			took, err := c.Start(b.Context())
			c.WantFailedStart(err, "postStart handler failed: exit status 1")
			c.WantSignals("TERM\n")
			if graced := c.Graced(); took < 1500*time.Millisecond || graced > bed.CRIGrace {
				b.Errorf("the start failed after %s, the container was killed %s after its signal, want about 2 s", took, graced)
			}
		})
	}
}

// docs/spec.md#start-limit, by the handler's own limit.
func TestCRIPostStartTimesOut(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {timeoutSeconds: 1, "+bed.Shell("echo so far; trap '' TERM; sleep 1000 & sleep 1000")+"}}", bed.Obedient)
	_, err := c.Start(b.Context())
	c.WantFailedStart(err, "postStart handler failed: timed out after 1s: so far")
}

// docs/spec.md#start-limit: the time limit, where neither the handler nor the request has one: the
// runtime's, which CRI's options table may set.
func TestCRIPostStartTimesOutByDefault(t *testing.T) {
	b := bed.OnCRI(t)
	pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell("sleep 1000") + "}}"}, func(config *harness.PodConfig) { config.Handler = bed.HandlerImpatient })
	c := b.Create(pod, bed.Obedient)
	_, err := c.Start(b.Context())
	c.WantFailedStart(err, "postStart handler failed: timed out after 1s")
}

// docs/spec.md#start-limit: the time limit: the request's deadline less min(5 s, half of what remains),
// so that the kubelet gets our words and not that its deadline has passed. Between the
// shim's answer and its own containerd kills and deletes the task, which takes 0.1 s on
// an idle machine, and took 4 s on a busy one. So what was in time is asked of the
// container's exit, and the words of what CRI keeps.
func TestCRIPostStartTimesOutByRequest(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {"+bed.Shell("echo so far; sleep 1000")+"}}", bed.Obedient)
	const deadline = 16 * time.Second
	ctx, cancel := context.WithTimeout(b.Context(), deadline)
	defer cancel()
	began := time.Now()
	_, err := c.Start(ctx)
	words := []string{"postStart handler failed: timed out", ": so far"}
	if ctx.Err() == nil { // else containerd was late with them
		bed.WantError(b.T, err, words...)
	}
	c.WantStartError(words...)
	if took := c.ExitedAt().Sub(began); took < deadline*4/10 || took >= deadline {
		b.Errorf("the container has ended after %s, want about two thirds of %s", took, deadline)
	}
}

// docs/spec.md#start-failure: a container that stays gets SIGKILL from the shim, before the
// request's deadline, where its grace period is longer: CRI's 30 s, and not the 10 s of
// elsewhere. The rest of the deadline is short then, so on a busy machine the answer
// may miss it: whose words come is not looked at.
func TestCRIPostStartFailsShortlyBeforeDeadline(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {"+bed.Shell(bed.WaitForReady+"exit 1")+"}}", bed.Forever)
	const deadline = 14 * time.Second
	ctx, cancel := context.WithTimeout(b.Context(), deadline)
	defer cancel()
	r := bed.Await(b.T, c.StartLater(ctx))
	if r.Err == nil || r.Took < deadline-2*time.Second || r.Took > bed.CRIGrace {
		b.Errorf("the start was answered after %s: %v", r.Took, r.Err)
	}
	c.WantExit(128)
	c.WantSignals("TERM\n")
	bed.Poll(b.T, "the shim's SIGKILL in the log", func() bool { return c.Logged(`msg="signal sent"`, "signal=9") })
}

// docs/spec.md#start-ignore.
func TestCRIPostStartFailureIgnored(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{postStart: {failurePolicy: Ignore, "+bed.Shell("exit 1")+"}}", bed.Obedient)
	c.WantState(cri.ContainerState_CONTAINER_RUNNING)
	c.MustStop(bed.Limit)
	c.WantExit(7)
}

// docs/spec.md#start-exit: the kubelet sees a container that
// has run, with its true status.
func TestCRIContainerExitsDuringPostStart(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {"+bed.Shell("touch begun; sleep 1000")+"}, preStop: {"+bed.Shell("touch stopped")+"}}",
		[]string{"/bin/sh", "-c", "while [ ! -e begun ]; do sleep 0.02; done; exit 9"})
	c.MustStart()
	status := c.WantExit(9)
	if status.StartedAt == 0 || status.Reason != "Error" {
		b.Errorf("CRI says %v, want a container that was started", status)
	}
	if c.Exists("stopped") {
		b.Error("preStop has run in a container that exited by itself")
	}
	c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
}

// docs/spec.md#start-stop: not from CRI. StopContainer does nothing to a
// container that it calls created, and the kubelet asks again when it runs.
func TestCRIStopDuringPostStart(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {"+bed.Shell(bed.WaitForGo)+"}}", bed.Obedient)
	result := c.Hold()
	c.WaitFor("ready")
	c.MustStop(bed.Limit)
	c.WantState(cri.ContainerState_CONTAINER_CREATED)
	c.Touch("go")
	if r := bed.Await(b.T, result); r.Err != nil {
		b.Fatal(r.Err)
	}
	c.WantSignals("")
	c.MustStop(bed.Limit)
	c.WantExit(7)
	c.WantSignals("TERM\n")
}

// The same from another client of containerd: the start fails saying so. Under CRI
// any signal is a stop signal.
func TestCRISignalDuringPostStart(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {"+bed.Shell(bed.WaitForGo)+"}, preStop: {"+bed.Shell("echo preStop >> signals")+"}}", onSignal("USR1"))
	result := c.Hold()
	c.WaitFor("ready")
	if _, err := c.Task().Kill(b.Context(), syscall.SIGUSR1); err != nil {
		b.Fatal(err)
	}
	c.WantFailedStart(bed.Await(b.T, result).Err, "postStart handler aborted", "signal 10")
	c.WantSignals("preStop\nUSR1\n")
}

// docs/spec.md#start-sigkill: containerd sends it when the
// kubelet gives a start up.
func TestCRIStartIsCancelled(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {"+bed.Shell(bed.WaitForGo)+"}, preStop: {"+bed.Shell("touch stopped")+"}}", bed.Forever)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	result := c.StartLater(ctx)
	wantKilledStart(c, cancel)
	if r := bed.Await(b.T, result); r.Err == nil {
		b.Error("a start that was cancelled succeeds")
	}
}

// docs/spec.md#start-client: CRI ends the container as if the start
// was cancelled, and the kubelet makes a new one.
func TestCRIConnectionGoesDuringPostStart(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{postStart: {"+bed.Shell(bed.WaitForGo)+"}, preStop: {"+bed.Shell("touch stopped")+"}}", bed.Forever)
	other, err := b.Daemon.CRI()
	if err != nil {
		b.Fatal(err)
	}
	result := bed.Later(func() (time.Duration, error) { return c.Through(other).Start(b.Context()) })
	wantKilledStart(c, func() {
		if err := other.Close(); err != nil {
			b.Error(err)
		}
	})
	if r := bed.Await(b.T, result); r.Err == nil {
		b.Error("a start whose connection has gone succeeds")
	}
}

// wantKilledStart ends the held start's request, and looks at the leftovers then.
func wantKilledStart(c *bed.PodContainer, end func()) {
	c.B.Helper()
	c.WaitFor("begun")
	state, err := c.Task().State(c.B.Context())
	if err != nil {
		c.B.Fatal(err)
	}
	end()
	c.WantGone()
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", state.PID)); err == nil {
		c.B.Errorf("process %d is still there", state.PID)
	}
	status := c.WantExit(128)
	if status.Reason != "StartError" || !strings.Contains(status.Message, "context canceled") {
		c.B.Errorf("CRI says %v, want a start that was cancelled", status)
	}
	if c.Exists("stopped") {
		c.B.Error("preStop has run for a SIGKILL")
	}
}

// onSignal is a command that exits with 7 when it gets that signal, and says when
// it gets SIGTERM.
func onSignal(name string) []string {
	return []string{"/bin/sh", "-c", fmt.Sprintf(`trap 'echo TERM >> signals' TERM; trap 'echo %[1]s >> signals; exit 7' %[1]s; touch ready; sleep 1000 & while :; do wait; done`, name)}
}
