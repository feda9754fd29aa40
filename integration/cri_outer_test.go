package integration

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// tellHere is tell in the container's working directory, which outlives it.
var tellHere = strings.ReplaceAll(tell, "/told", "told")

// docs/spec.md#prestart: it has ended before the entrypoint begins; CRI's start is held.
func TestCRIPreStartHoldsTheStart(t *testing.T) {
	b := onCRI(t)
	c := b.app("{preStart: {"+shell(waiting+"echo preStart >> signals")+"}}", obedient)
	result := c.hold()
	c.wantState(cri.ContainerState_CONTAINER_CREATED)
	if c.exists("ready") {
		b.Error("the entrypoint runs beside preStart")
	}
	c.touch("go")
	if r := answer(b.T, result); r.err != nil {
		b.Fatal(r.err)
	}
	c.waitFor("ready")
	c.stop(60 * time.Second)
	c.wantExit(7)
	c.wantSignals("preStart\nTERM\n")
	c.wantTopics(created, start, exit, deleted)
}

// docs/spec.md#prestart-failure: failure, time-out, and CRI's cancelling: StartError in words, and the entrypoint never runs.
func TestCRIPreStartFails(t *testing.T) {
	b := onCRI(t)
	c := b.app("{preStart: {"+shell("echo last words; exit 3")+"}, preStop: {"+shell("touch wrong")+"}, onExit: {"+shell(tellHere)+"}}", forever)
	_, err := c.Start(b.Context())
	c.wantFailedStart(err, "preStart handler failed: exit status 3: last words")
	late := b.app("{preStart: {timeoutSeconds: 1, "+shell("sleep 1000")+"}}", forever)
	_, err = late.Start(b.Context())
	late.wantFailedStart(err, "preStart handler failed: timed out after 1s")
	if c.exists("ready") || c.exists("wrong") || late.exists("ready") {
		b.Error("the entrypoint or preStop has run")
	}
	if got := c.read("told"); got != "onExit start-failed code= signal=\n" {
		b.Errorf("told %q", got)
	}
	c.wantGone()
}

// docs/spec.md#prestart-stop: CRI's SIGKILL for a start that its client has given up.
func TestCRIStartIsCancelledDuringPreStart(t *testing.T) {
	b := onCRI(t)
	c := b.app("{preStart: {"+shell(waiting)+"}}", forever)
	result := c.hold()
	if _, err := c.Task().Kill(b.Context(), syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	if r := answer(b.T, result); r.err == nil {
		b.Error("the start succeeds")
	}
	c.wantGone()
	if c.exists("ready") {
		b.Error("the entrypoint has run")
	}
}

// docs/spec.md#onexit-result: exits of a Job's kinds: once, the right result, before CRI knows of the end, the status unchanged.
func TestCRIOnExitIsToldTheEnd(t *testing.T) {
	for name, end := range map[string]struct {
		args   []string
		kill   bool
		code   int32
		reason string
		told   string
		before string
	}{
		"completed": {[]string{"/bin/sh", "-c", "exit 0"}, false, 0, "Completed", "onExit completed code=0 signal=", ""},
		"exit code": {[]string{"/bin/sh", "-c", "exit 3"}, false, 3, "Error", "onExit exit-code code=3 signal=", ""},
		"OOM":       {memoryHog, false, 137, "OOMKilled", toldOOM, toldOOMBefore},
		"SIGKILL":   {forever, true, 137, "Error", toldSIGKILL, toldSIGKILLBefore},
	} {
		t.Run(name, func(t *testing.T) {
			b := onCRI(t)
			c := b.app("{onExit: {"+shell(tellHere)+"}}", end.args, func(config *harness.PodContainerConfig) { config.MemoryLimit = 32 << 20 })
			c.start()
			if end.kill {
				c.waitFor("ready")
				c.stop(0)
			}
			status := c.wantExit(end.code)
			if got, want := c.read("told"), toldOf(t, end.told, end.before)+"\n"; got != want {
				b.Errorf("told %q, want %q", got, want)
			}
			if status.Reason != end.reason {
				b.Errorf("reason %q, want %q", status.Reason, end.reason)
			}
			c.wantGone()
		})
	}
}

// docs/spec.md#onexit-kill: CRI does not know of the end before; a stop in between waits for it, and its grace period ends it.
func TestCRIOnExitHoldsTheEnd(t *testing.T) {
	b := onCRI(t)
	c := b.app("{onExit: {"+shell(waiting+tellHere)+"}}", []string{"/bin/sh", "-c", "exit 3"})
	c.start()
	c.waitFor("begun")
	c.wantState(cri.ContainerState_CONTAINER_RUNNING)
	if state, err := c.Task().State(b.Context()); err != nil || state.Status != task.Status_STOPPED {
		b.Errorf("state %+v (%v) while onExit runs, want STOPPED", state, err)
	}
	stop := c.stopLater(60 * time.Second)
	c.touch("go")
	c.stopped(stop)
	c.wantExit(3)
	ended := b.app("{onExit: {"+shell(waiting+tellHere)+", timeoutSeconds: 90}}", []string{"/bin/sh", "-c", "exit 3"})
	ended.start()
	ended.waitFor("begun")
	if took := ended.stop(time.Second); took > limit {
		b.Errorf("the stop takes %s", took)
	}
	ended.wantExit(3)
	if ended.exists("told") {
		b.Error("onExit goes on after the grace period")
	}
}

// docs/spec.md#onexit-place: the pod's network, pids and users.
func TestCRIOnExitInPodNamespaces(t *testing.T) {
	for name, edit := range map[string]func(*harness.PodConfig){
		"network of its own": func(config *harness.PodConfig) { config.HostNetwork = false },
		"shared pids":        func(config *harness.PodConfig) { config.SharedPID = true },
		"users of its own": func(config *harness.PodConfig) {
			config.Handler, config.UserNamespace, config.HostNetwork = handlerUserNS, true, false
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := onCRI(t)
			look := "(for ns in cgroup ipc net user uts; do readlink /proc/self/ns/$ns; done; id -u; cat /proc/self/uid_map) > "
			c := b.create(b.pod(with{keyLifecycle: "{onExit: {" + shell(look+"after") + "}}"}, edit), []string{"/bin/sh", "-c", look + "init; exit 3"})
			c.start()
			c.wantExit(3)
			if own, its := c.read("init"), c.read("after"); own != its {
				b.Errorf("of the container:\n%s\nof onExit:\n%s", own, its)
			}
		})
	}
}

// docs/spec.md#onexit-crash: containerd restarts. CRI then kills a task that has stopped, which ends onExit; nothing hangs.
func TestCRIDaemonKilledDuringOnExit(t *testing.T) {
	b := onOwnCRI(t)
	c := b.app("{onExit: {"+shell(waiting+tellHere)+"}}", []string{"/bin/sh", "-c", "exit 3"})
	c.start()
	c.waitFor("begun")
	if err := b.daemon.Kill(); err != nil {
		b.Fatal(err)
	}
	if err := b.daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	c.wantExit(3)
	c.wantGone()
	if c.exists("told") {
		b.Error("onExit went on: say so in the docs")
	}
}
