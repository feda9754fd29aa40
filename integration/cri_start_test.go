package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types/task"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// docs/spec.md#start-none: as without the shim.
func TestCRIStartWithoutHandlers(t *testing.T) {
	b := onCRI(t)
	c := b.create(b.pod(nil), obedient)
	c.start()
	c.wantState(cri.ContainerState_CONTAINER_RUNNING)
	c.waitFor("ready")
	c.stop(limit)
	c.wantExit(7)
	c.wantSignals("TERM\n")
	c.wantTopics(created, start, exit, deleted)
}

// docs/spec.md#start-hold, docs/spec.md#start-state, docs/spec.md#start-success. The pod's annotation reaches
// the pause container too, which has no handlers: else the pod would not run.
func TestCRIStartIsHeld(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {"+shell(waiting+"echo hi > message")+"}}", forever)
	result := c.hold()
	c.waitFor("ready") // the entrypoint runs meanwhile
	c.wantState(cri.ContainerState_CONTAINER_CREATED)
	if state, err := c.Task().State(b.Context()); err != nil || state.Status != task.Status_CREATED || state.PID == 0 {
		b.Errorf("state %+v (%v) while postStart runs, want CREATED with a pid", state, err)
	}
	if topics := b.events.Topics(c.ID); strings.Contains(strings.Join(topics, " "), start) {
		b.Errorf("TaskStart is published while postStart runs: %v", topics)
	}
	if _, _, err := c.Exec(b.Context(), "true"); err == nil {
		b.Error("CRI runs a command in a container that it calls created")
	}
	c.touch("go")
	r := answer(b.T, result)
	if r.err != nil {
		b.Fatal(r.err)
	}
	if got := c.read("message"); got != "hi\n" {
		b.Errorf("message %q", got)
	}
	status := c.status()
	if status.State != cri.ContainerState_CONTAINER_RUNNING || status.StartedAt == 0 {
		b.Errorf("CRI says %v after postStart, want RUNNING", status)
	}
	if code, output, err := c.Exec(b.Context(), "cat", "message"); code != 0 || output != "hi\n" {
		b.Errorf("a command in the container: status %d, %q, %v", code, output, err)
	}
	c.stop(0)
	c.wantTopics(created, start, "/tasks/exec-added", "/tasks/exec-started", exit, exit, deleted)
}

// docs/spec.md#start-state: CRI lets nobody in, but containerd's own clients may.
func TestCRIHeldContainerServesRequests(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {"+shell(waiting)+"}}", obedient)
	result := c.hold()
	poll(b.T, "more processes than the entrypoint's two", func() bool {
		pids, err := c.Task().Pids(b.Context())
		return err == nil && len(pids) > 2
	})
	waited := later(func() (time.Duration, error) { _, err := c.Task().Wait(b.Context()); return 0, err })
	c.touch("go")
	if r := answer(b.T, result); r.err != nil {
		b.Fatal(r.err)
	}
	c.stop(0)
	if r := answer(b.T, waited); r.err != nil {
		b.Errorf("a wait that began during the hold: %v", r.err)
	}
}

// docs/spec.md#start-failure: the words reach the kubelet, preStop has run, the container
// is gone.
func TestCRIPostStartFails(t *testing.T) {
	b := onCRI(t)
	block := "{postStart: {" + shell(onceReady+"echo last words >&2; exit 3") + "}, preStop: {" + shell("echo preStop >> signals") + "}}"
	c := b.app(block, obedient)
	_, err := c.Start(b.Context())
	c.wantFailedStart(err, "postStart handler failed: exit status 3: last words")
	c.wantSignals("preStop\nTERM\n")
	c.wantGone()
	c.wantTopics(created, start, exit, deleted)
}

// docs/spec.md#start-failure: the container gets the block's stop signal.
func TestCRIPostStartFailsWithStopSignal(t *testing.T) {
	b := onCRI(t)
	c := b.app("{stopSignal: SIGUSR1, postStart: {"+shell(onceReady+"exit 1")+"}}", onSignal("USR1"))
	_, err := c.Start(b.Context())
	c.wantFailedStart(err, "postStart handler failed: exit status 1")
	c.wantSignals("USR1\n")
}

// docs/spec.md#start-failure: the grace period of a container that stays is the block's,
// else the pod's as the kubelet tells it.
func TestCRIPostStartFailsGracePeriod(t *testing.T) {
	for name, grace := range map[string]struct{ block, pod string }{
		"of the pod":   {block: "", pod: "2"},
		"of the block": {block: ", terminationGracePeriodSeconds: 2", pod: "600"},
	} {
		t.Run(name, func(t *testing.T) {
			b := onCRI(t)
			c := b.app("{postStart: {"+shell(onceReady+"exit 1")+"}"+grace.block+"}", forever,
				func(config *harness.PodContainerConfig) { config.Annotations = with{keyGrace: grace.pod} })
			took, err := c.Start(b.Context())
			c.wantFailedStart(err, "postStart handler failed: exit status 1")
			c.wantSignals("TERM\n")
			if graced := c.graced(); took < 1500*time.Millisecond || graced > criGrace {
				b.Errorf("the start failed after %s, the container was killed %s after its signal, want about 2 s", took, graced)
			}
		})
	}
}

// graced is how long the container has lived on after its stop signal: of a failed start the part that a busy machine stretches least.
func (c *podContainer) graced() time.Duration {
	c.b.Helper()
	exited := c.exitedAt()
	noted, err := os.Stat(c.path("signals"))
	if err != nil {
		c.b.Fatal(err)
	}
	return exited.Sub(noted.ModTime())
}

// exitedAt is when the container has exited, of which there is an event.
func (c *podContainer) exitedAt() time.Time {
	c.b.Helper()
	event, err := c.b.events.WaitFor(c.b.Context(), limit, c.ID, exit)
	if err != nil {
		c.b.Fatal(err)
	}
	exited, known := event.Value.(*eventstypes.TaskExit)
	if !known {
		c.b.Fatalf("%+v", event)
	}
	return exited.ExitedAt.AsTime()
}

// criGrace is the grace period where nobody names one.
const criGrace = 30 * time.Second

// docs/spec.md#start-limit, by the handler's own limit.
func TestCRIPostStartTimesOut(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {timeoutSeconds: 1, "+shell("echo so far; trap '' TERM; sleep 1000 & sleep 1000")+"}}", obedient)
	_, err := c.Start(b.Context())
	c.wantFailedStart(err, "postStart handler failed: timed out after 1s: so far")
}

// docs/spec.md#start-limit: the time limit, where neither the handler nor the request has one: the
// runtime's, which CRI's options table may set.
func TestCRIPostStartTimesOutByDefault(t *testing.T) {
	b := onCRI(t)
	pod := b.pod(with{keyLifecycle: "{postStart: {" + shell("sleep 1000") + "}}"}, func(config *harness.PodConfig) { config.Handler = handlerImpatient })
	c := b.create(pod, obedient)
	_, err := c.Start(b.Context())
	c.wantFailedStart(err, "postStart handler failed: timed out after 1s")
}

// docs/spec.md#start-limit: the time limit: the request's deadline less min(5 s, half of what remains),
// so that the kubelet gets our words and not that its deadline has passed. Between the
// shim's answer and its own containerd kills and deletes the task, which takes 0.1 s on
// an idle machine, and took 4 s on a busy one. So what was in time is asked of the
// container's exit, and the words of what CRI keeps.
func TestCRIPostStartTimesOutByRequest(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {"+shell("echo so far; sleep 1000")+"}}", obedient)
	const deadline = 16 * time.Second
	ctx, cancel := context.WithTimeout(b.Context(), deadline)
	defer cancel()
	began := time.Now()
	_, err := c.Start(ctx)
	words := []string{"postStart handler failed: timed out", ": so far"}
	if ctx.Err() == nil { // else containerd was late with them
		wantError(b.T, err, words...)
	}
	c.wantStartError(words...)
	if took := c.exitedAt().Sub(began); took < deadline*4/10 || took >= deadline {
		b.Errorf("the container has ended after %s, want about two thirds of %s", took, deadline)
	}
}

// docs/spec.md#start-failure: a container that stays gets SIGKILL from the shim, before the
// request's deadline, where its grace period is longer: CRI's 30 s, and not the 10 s of
// elsewhere. What is left of the deadline then is little, so on a busy machine the answer
// may miss it: whose words come is not looked at.
func TestCRIPostStartFailsShortlyBeforeDeadline(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {"+shell(onceReady+"exit 1")+"}}", forever)
	const deadline = 14 * time.Second
	ctx, cancel := context.WithTimeout(b.Context(), deadline)
	defer cancel()
	r := answer(b.T, c.startLater(ctx))
	if r.err == nil || r.took < deadline-2*time.Second || r.took > criGrace {
		b.Errorf("the start was answered after %s: %v", r.took, r.err)
	}
	c.wantExit(128)
	c.wantSignals("TERM\n")
	poll(b.T, "the shim's SIGKILL in the log", func() bool { return c.logged(`msg="signal sent"`, "signal=9") })
}

// docs/spec.md#start-ignore.
func TestCRIPostStartFailureIgnored(t *testing.T) {
	b := onCRI(t)
	c := b.run("{postStart: {failurePolicy: Ignore, "+shell("exit 1")+"}}", obedient)
	c.wantState(cri.ContainerState_CONTAINER_RUNNING)
	c.stop(limit)
	c.wantExit(7)
}

// docs/spec.md#start-exit: the kubelet sees a container that
// has run, with its true status.
func TestCRIContainerExitsDuringPostStart(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {"+shell("touch begun; sleep 1000")+"}, preStop: {"+shell("touch stopped")+"}}",
		[]string{"/bin/sh", "-c", "while [ ! -e begun ]; do sleep 0.02; done; exit 9"})
	c.start()
	status := c.wantExit(9)
	if status.StartedAt == 0 || status.Reason != "Error" {
		b.Errorf("CRI says %v, want a container that was started", status)
	}
	if c.exists("stopped") {
		b.Error("preStop has run in a container that exited by itself")
	}
	c.wantTopics(created, start, exit, deleted)
}

// docs/spec.md#start-stop: not from CRI. StopContainer does nothing to a
// container that it calls created, and the kubelet asks again when it runs.
func TestCRIStopDuringPostStart(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {"+shell(waiting)+"}}", obedient)
	result := c.hold()
	c.waitFor("ready")
	c.stop(limit)
	c.wantState(cri.ContainerState_CONTAINER_CREATED)
	c.touch("go")
	if r := answer(b.T, result); r.err != nil {
		b.Fatal(r.err)
	}
	c.wantSignals("")
	c.stop(limit)
	c.wantExit(7)
	c.wantSignals("TERM\n")
}

// The same from another client of containerd: the start fails saying so. Under CRI
// any signal is a stop signal.
func TestCRISignalDuringPostStart(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {"+shell(waiting)+"}, preStop: {"+shell("echo preStop >> signals")+"}}", onSignal("USR1"))
	result := c.hold()
	c.waitFor("ready")
	if _, err := c.Task().Kill(b.Context(), syscall.SIGUSR1); err != nil {
		b.Fatal(err)
	}
	c.wantFailedStart(answer(b.T, result).err, "postStart handler aborted", "signal 10")
	c.wantSignals("preStop\nUSR1\n")
}

// docs/spec.md#start-sigkill: containerd sends it when the
// kubelet gives a start up.
func TestCRIStartIsCancelled(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {"+shell(waiting)+"}, preStop: {"+shell("touch stopped")+"}}", forever)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	result := c.startLater(ctx)
	c.wantKilledStart(cancel)
	if r := answer(b.T, result); r.err == nil {
		b.Error("a start that was cancelled succeeds")
	}
}

// docs/spec.md#start-client: CRI ends the container as if the start
// was cancelled, and the kubelet makes a new one.
func TestCRIConnectionGoesDuringPostStart(t *testing.T) {
	b := onCRI(t)
	c := b.app("{postStart: {"+shell(waiting)+"}, preStop: {"+shell("touch stopped")+"}}", forever)
	other, err := b.daemon.CRI()
	if err != nil {
		b.Fatal(err)
	}
	result := later(func() (time.Duration, error) { return c.Through(other).Start(b.Context()) })
	c.wantKilledStart(func() {
		if err := other.Close(); err != nil {
			b.Error(err)
		}
	})
	if r := answer(b.T, result); r.err == nil {
		b.Error("a start whose connection has gone succeeds")
	}
}

// wantKilledStart ends the held start's request, and looks at what is left then.
func (c *podContainer) wantKilledStart(end func()) {
	c.b.Helper()
	c.waitFor("begun")
	state, err := c.Task().State(c.b.Context())
	if err != nil {
		c.b.Fatal(err)
	}
	end()
	c.wantGone()
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", state.PID)); err == nil {
		c.b.Errorf("process %d is still there", state.PID)
	}
	status := c.wantExit(128)
	if status.Reason != "StartError" || !strings.Contains(status.Message, "context canceled") {
		c.b.Errorf("CRI says %v, want a start that was cancelled", status)
	}
	if c.exists("stopped") {
		c.b.Error("preStop has run for a SIGKILL")
	}
}

// onSignal is a command that exits with 7 when it gets that signal, and says when
// it gets SIGTERM.
func onSignal(name string) []string {
	return []string{"/bin/sh", "-c", fmt.Sprintf(`trap 'echo TERM >> signals' TERM; trap 'echo %[1]s >> signals; exit 7' %[1]s; touch ready; sleep 1000 & while :; do wait; done`, name)}
}
