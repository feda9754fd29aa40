package kubernetes

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
)

// stubborn notes SIGTERM and goes on, and notes for how long it has been alive.
const stubborn = `trap 'echo TERM >> log; touch term' TERM; touch /tmp/started; while :; do touch alive; sleep 0.05; done`

// tail is how long the shim leaves a container that got CRI's SIGKILL in the middle of its preStop: SPEC 5.
const tail = 2 * time.Second

// SPEC 5, "SIGKILL, under CRI, preStop running": whatever grace period the deletion says, it cuts preStop off, and
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
			p := b.create(blocks{"app": lifecycle("", "touch begun; sleep 20; touch through")}, []core.Container{container("app", stubborn)}, grace(60))
			p.running()
			seen, id := b.events(), p.containerID("app")
			took := p.delete(deletion.flags...)
			exit, err := seen.WaitFor(b.Context(), limit, id, "/tasks/exit")
			if err != nil {
				b.Fatal(err)
			}
			if p.exists("through") {
				b.Error("preStop ran to its end")
			}
			p.wantLog("TERM")
			begun, term := p.written("begun"), p.written("term")
			if waited := term.Sub(begun); waited < deletion.grace-time.Second || waited > deletion.grace+8*time.Second {
				b.Errorf("SIGTERM came %v after preStop's begin, want about %v", waited, deletion.grace)
			}
			lived := p.written("alive").Sub(term)
			if lived < tail-500*time.Millisecond || lived > tail+8*time.Second {
				b.Errorf("the process lived for %v after SIGTERM, want about %v", lived, tail)
			}
			b.Logf("kubectl delete %v took %v; preStop %v, SIGTERM, %v, SIGKILL (exit event %v after preStop's begin)", deletion.flags,
				took.Round(time.Millisecond), term.Sub(begun).Round(time.Millisecond), lived.Round(time.Millisecond), exit.Timestamp.Sub(begun).Round(time.Millisecond))
		})
	}
}

// A grace period that is long enough for preStop ends nothing early.
func TestPreStopHasItsTime(t *testing.T) {
	b := on(t)
	p := b.create(blocks{"app": lifecycle("", waiting+"echo through >> log")}, []core.Container{container("app", app)})
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

// Kubernetes' rule: a container that has completed has no preStop.
func TestCompleted(t *testing.T) {
	b := on(t)
	p := b.create(blocks{"app": lifecycle("touch go", "echo preStop >> log")},
		[]core.Container{container("app", "touch /tmp/started; while [ ! -e go ]; do sleep 0.02; done; echo done >> log")}, restartPolicy(core.RestartPolicyNever))
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
	p := b.create(blocks{"app": lifecycle("echo postStart >> log", "echo preStop >> log")}, []core.Container{container("app", crash)})
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
	c := container("app", app)
	c.LivenessProbe = &core.Probe{
		ProbeHandler:  core.ProbeHandler{Exec: &core.ExecAction{Command: []string{"/bin/sh", "-c", "[ ! -e sick ]"}}},
		PeriodSeconds: 1, FailureThreshold: 1,
	}
	p := b.create(blocks{"app": lifecycle("rm -f sick; echo postStart >> log", "echo preStop >> log")}, []core.Container{c})
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
