package cri

import (
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// docs/spec.md#prestart: it has ended before the entrypoint begins; CRI's start is held.
func TestCRIPreStartHoldsTheStart(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{preStart: {"+bed.Shell(bed.WaitForGo+"echo preStart >> signals")+"}}", bed.Obedient)
	result := c.Hold()
	c.WantState(cri.ContainerState_CONTAINER_CREATED)
	if c.Exists("ready") {
		b.Error("the entrypoint runs beside preStart")
	}
	c.Touch("go")
	if r := bed.Await(b.T, result); r.Err != nil {
		b.Fatal(r.Err)
	}
	c.WaitFor("ready")
	c.MustStop(60 * time.Second)
	c.WantExit(7)
	c.WantSignals("preStart\nTERM\n")
	c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
}

// docs/spec.md#prestart-failure: failure, time-out, and CRI's cancelling: StartError in words, and the entrypoint never runs.
func TestCRIPreStartFails(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{preStart: {"+bed.Shell("echo last words; exit 3")+"}, preStop: {"+bed.Shell("touch wrong")+"}, onExit: {"+bed.Shell(bed.ReportHere)+"}}", bed.Forever)
	_, err := c.Start(b.Context())
	c.WantFailedStart(err, "preStart handler failed: exit status 3: last words")
	late := b.App("{preStart: {timeoutSeconds: 1, "+bed.Shell("sleep 1000")+"}}", bed.Forever)
	_, err = late.Start(b.Context())
	late.WantFailedStart(err, "preStart handler failed: timed out after 1s")
	if c.Exists("ready") || c.Exists("wrong") || late.Exists("ready") {
		b.Error("the entrypoint or preStop has run")
	}
	if got := c.Read("told"); got != "onExit start-failed code= signal=\n" {
		b.Errorf("told %q", got)
	}
	c.WantGone()
}

// docs/spec.md#prestart-stop: CRI's SIGKILL for a start that its client has given up.
func TestCRIStartIsCancelledDuringPreStart(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{preStart: {"+bed.Shell(bed.WaitForGo)+"}}", bed.Forever)
	result := c.Hold()
	if _, err := c.Task().Kill(b.Context(), syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	if r := bed.Await(b.T, result); r.Err == nil {
		b.Error("the start succeeds")
	}
	c.WantGone()
	if c.Exists("ready") {
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
		"OOM":       {bed.MemoryHog, false, 137, "OOMKilled", bed.ReportedOOM, bed.ReportedOOMBefore},
		"SIGKILL":   {bed.Forever, true, 137, "Error", bed.ReportedSIGKILL, bed.ReportedSIGKILLBefore},
	} {
		t.Run(name, func(t *testing.T) {
			b := bed.OnCRI(t)
			c := b.App("{onExit: {"+bed.Shell(bed.ReportHere)+"}}", end.args, func(config *harness.PodContainerConfig) { config.MemoryLimit = 32 << 20 })
			c.MustStart()
			if end.kill {
				c.WaitFor("ready")
				c.MustStop(0)
			}
			status := c.WantExit(end.code)
			if got, want := c.Read("told"), bed.Reported(t, end.told, end.before)+"\n"; got != want {
				b.Errorf("told %q, want %q", got, want)
			}
			if status.Reason != end.reason {
				b.Errorf("reason %q, want %q", status.Reason, end.reason)
			}
			c.WantGone()
		})
	}
}

// docs/spec.md#onexit-kill: CRI does not know of the end before; a stop in between waits for it, and its grace period ends it.
func TestCRIOnExitHoldsTheEnd(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{onExit: {"+bed.Shell(bed.WaitForGo+bed.ReportHere)+"}}", []string{"/bin/sh", "-c", "exit 3"})
	c.MustStart()
	c.WaitFor("begun")
	c.WantState(cri.ContainerState_CONTAINER_RUNNING)
	if state, err := c.Task().State(b.Context()); err != nil || state.Status != task.Status_STOPPED {
		b.Errorf("state %+v (%v) while onExit runs, want STOPPED", state, err)
	}
	stop := c.StopLater(60 * time.Second)
	c.Touch("go")
	c.Stopped(stop)
	c.WantExit(3)
	ended := b.App("{onExit: {"+bed.Shell(bed.WaitForGo+bed.ReportHere)+", timeoutSeconds: 90}}", []string{"/bin/sh", "-c", "exit 3"})
	ended.MustStart()
	ended.WaitFor("begun")
	if took := ended.MustStop(time.Second); took > bed.Limit {
		b.Errorf("the stop takes %s", took)
	}
	ended.WantExit(3)
	if ended.Exists("told") {
		b.Error("onExit continues after the grace period")
	}
}

// docs/spec.md#onexit-place: the pod's network, pids and users.
func TestCRIOnExitInPodNamespaces(t *testing.T) {
	for name, edit := range map[string]func(*harness.PodConfig){
		"own network": func(config *harness.PodConfig) { config.HostNetwork = false },
		"shared pids": func(config *harness.PodConfig) { config.SharedPID = true },
		"own users": func(config *harness.PodConfig) {
			config.Handler, config.UserNamespace, config.HostNetwork = bed.HandlerUserNS, true, false
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := bed.OnCRI(t)
			look := "(for ns in cgroup ipc net user uts; do readlink /proc/self/ns/$ns; done; id -u; cat /proc/self/uid_map) > "
			c := b.Create(b.Pod(bed.Annotations{bed.KeyLifecycle: "{onExit: {" + bed.Shell(look+"after") + "}}"}, edit), []string{"/bin/sh", "-c", look + "init; exit 3"})
			c.MustStart()
			c.WantExit(3)
			if own, its := c.Read("init"), c.Read("after"); own != its {
				b.Errorf("of the container:\n%s\nof onExit:\n%s", own, its)
			}
		})
	}
}

// docs/spec.md#onexit-crash: containerd restarts. CRI then kills a task that has stopped, which ends onExit; nothing hangs.
func TestCRIDaemonKilledDuringOnExit(t *testing.T) {
	b := bed.OnOwnCRI(t)
	c := b.App("{onExit: {"+bed.Shell(bed.WaitForGo+bed.ReportHere)+"}}", []string{"/bin/sh", "-c", "exit 3"})
	c.MustStart()
	c.WaitFor("begun")
	if err := b.Daemon.Kill(); err != nil {
		b.Fatal(err)
	}
	if err := b.Daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	c.WantExit(3)
	c.WantGone()
	if c.Exists("told") {
		b.Error("onExit continued: say so in the docs")
	}
}
