package kubernetes

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// stubborn notes SIGTERM, and continues.
const stubborn = `trap 'echo TERM >> log; touch term' TERM; touch /tmp/started; while :; do sleep 0.05; done`

// tail is how long the shim leaves a container that got CRI's SIGKILL in the middle of its preStop: docs/spec.md#stop-sigkill-cri.
const tail = 2 * time.Second

// docs/spec.md#stop-sigkill-cri: for any grace period of the deletion, it cuts preStop off, and
// SIGTERM comes before SIGKILL all the same.
func TestGraceOverride(t *testing.T) {
	t.Parallel()
	for name, deletion := range map[string]struct {
		flags []string
		grace time.Duration // that CRI gets
	}{
		"5s": {[]string{"--grace-period=5"}, 5 * time.Second},
		"3s": {[]string{"--grace-period=3"}, 3 * time.Second},
		"1s": {[]string{"--grace-period=1"}, 2 * time.Second}, // the kubelet's minimum
		// The pod has gone from the API at once; the kubelet gives it its minimum.
		"force": {[]string{"--force"}, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			b := on(t)
			p := b.create(grace(60), container("app", stubborn, handlers("", "sleep 20; touch through")))
			p.running()
			seen, id := b.events(), p.containerID("app")
			took := p.delete(deletion.flags...)
			killed := b.when(seen, id, "/tasks/exit")
			begun, term := b.when(seen, id, "/lifecycle/handler-started"), p.written("term")
			b.Logf("kubectl delete %v took %v: preStop, %v, SIGTERM, %v, SIGKILL", deletion.flags,
				took.Round(time.Millisecond), term.Sub(begun).Round(time.Millisecond), killed.Sub(term).Round(time.Millisecond))

			if p.exists("through") {
				b.Error("preStop ran to its end")
			}
			p.wantLog("TERM")
			b.wantAbout("SIGTERM after preStop's begin", term.Sub(begun), deletion.grace)
			b.wantAbout("SIGKILL after SIGTERM", killed.Sub(term), tail)
		})
	}
}

// when an event of a container was published; it waits for it.
func (b *bench) when(seen *harness.Events, id, topic string) time.Time {
	b.Helper()
	event, err := seen.WaitFor(b.Context(), limit, id, topic)
	if err != nil {
		b.Fatal(err)
	}
	return event.Timestamp
}

// wantAbout allows for a machine that is busy with other pods: a signal may be late, and so may be what it makes the
// process note.
func (b *bench) wantAbout(what string, got, want time.Duration) {
	b.Helper()
	if got < want-time.Second || got > want+8*time.Second {
		b.Errorf("%s: %v, want about %v", what, got, want)
	}
}

// A grace period that is long enough for preStop ends nothing early.
func TestPreStopHasItsTime(t *testing.T) {
	b := on(t)
	p := b.create(nil, container("app", app, handlers("", waiting+"echo through >> log")))
	p.running()
	done := p.deleteLater()
	p.waitFor("begun")
	b.Logf("kubectl get pod during preStop:\n%s", b.kubectl("get", "pod", p.name))
	b.Logf("kubectl exec during preStop: %s", b.kubectl("exec", p.name, "--", "cat", "log"))
	p.wantLog("start begun")
	p.touch("go")
	p.deleted(done)
	p.wantLog("start begun through TERM")
}

// A stopSignal in the pod's spec, where the converter leaves it, reaches the process by way of the kubelet and CRI, after
// preStop like any other.
func TestStopSignal(t *testing.T) {
	b := on(t)
	app := container("app", "echo start >> log; trap 'echo USR1 >> log; exit 0' USR1; touch /tmp/started; while :; do sleep 0.05; done",
		handlers("", "echo preStop >> log"))
	app.Lifecycle.StopSignal = ptr(core.SIGUSR1)
	p := b.create(func(spec *core.PodSpec) { spec.OS = &core.PodOS{Name: core.Linux} }, app)
	p.running()
	p.delete()
	p.wantLog("start preStop USR1")
}

// Kubernetes' rule: a container that has completed has no preStop.
func TestCompleted(t *testing.T) {
	b := on(t)
	p := b.create(restartPolicy(core.RestartPolicyNever), container("app", "touch /tmp/started; while [ ! -e go ]; do sleep 0.02; done; echo done >> log",
		handlers("touch go", "echo preStop >> log")))
	p.wait("jsonpath={.status.phase}=Succeeded")
	if status := p.status().ContainerStatuses[0]; status.State.Terminated.ExitCode != 0 || status.State.Terminated.Reason != "Completed" {
		b.Errorf("state %+v, want Completed", status.State)
	}
	p.delete()
	p.wantLog("done")
}

// A container that crashed has none either; the next one has a postStart again.
func TestCrashed(t *testing.T) {
	b := on(t)
	const crash = "echo start >> log; trap 'exit 0' TERM; touch /tmp/started; while [ ! -e go ]; do sleep 0.02; done; rm go; exit 1"
	p := b.create(nil, container("app", crash, handlers("echo postStart >> log", "echo preStop >> log")))
	p.ready()
	p.touch("go")
	p.wait("jsonpath={.status.containerStatuses[0].restartCount}=1")
	p.ready()
	p.delete()
	p.wantLog("start postStart start postStart preStop")
}

// A liveness probe that fails: preStop, the restart, and postStart of the next container.
func TestLivenessKill(t *testing.T) {
	b := on(t)
	c := container("app", app, handlers("rm -f sick; echo postStart >> log", "echo preStop >> log"))
	c.LivenessProbe = &core.Probe{
		ProbeHandler:  core.ProbeHandler{Exec: &core.ExecAction{Command: []string{"/bin/sh", "-c", "[ ! -e sick ]"}}},
		PeriodSeconds: 1, FailureThreshold: 1,
	}
	p := b.create(nil, c)
	p.ready()
	p.touch("sick")
	p.wait("jsonpath={.status.containerStatuses[0].restartCount}=1")
	p.ready()
	if last := p.status().ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 0 {
		b.Errorf("the last state is %+v, want an exit with 0", last)
	}
	p.delete()
	p.wantLog("start postStart preStop TERM start postStart preStop TERM")
}
