package kubernetes

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// docs/spec.md#start-hold: the pod is neither Running nor Ready before it is through. That the kubelet would have had the
// time to say so is shown by a second pod, made later.
func TestNotReadyDuringPostStart(t *testing.T) {
	b := on(t)
	p := b.create(nil, container("app", app, handlers(waiting, "")))
	p.waitFor("begun")
	b.Run("another", func(t *testing.T) {
		other := &bench{T: t, host: b.host}
		other.create(nil, container("app", app, nil)).ready()
	})

	status := p.status()
	if status.Phase != core.PodPending {
		b.Errorf("phase %s, want Pending", status.Phase)
	}
	for _, condition := range status.Conditions {
		if condition.Type == core.PodReady && condition.Status == core.ConditionTrue {
			b.Error("the pod is Ready during postStart")
		}
	}
	shown := b.kubectl("get", "pod", p.name)
	b.Logf("kubectl get pod during postStart:\n%s", shown)
	b.wantPart(shown, "0/1     ContainerCreating   0")
	_, err := b.Kubectl(b.Context(), "exec", p.name, "--", "true")
	b.Logf("kubectl exec during postStart: %v", err)
	if err == nil {
		b.Error("kubectl exec works, although the container has not started for the kubelet")
	}

	_, err = b.Kubectl(b.Context(), "logs", p.name)
	b.Logf("kubectl logs during postStart: %v", err)

	p.touch("go")
	p.ready()
	running := p.status().ContainerStatuses[0].State.Running
	if through := p.written("go"); running == nil || running.StartedAt.Time.Before(through.Truncate(1e9)) {
		b.Errorf("the container runs since %v, postStart ended after %v", running, through)
	}
	b.wantPart(b.kubectl("exec", p.name, "--", "cat", "log"), "start\n", "begun\n")
	b.wantPart(b.kubectl("get", "pod", p.name), "1/1     Running   0")
}

// docs/spec.md#start-failure, docs/spec.md#start-words: the words of the handler are in kubectl describe, and preStop has run. The kubelet tries again.
func TestFailingPostStart(t *testing.T) {
	b := on(t)
	p := b.create(nil, container("app", app, handlers("echo no message today; exit 3", "echo preStop >> log")))
	p.wait("jsonpath={.status.containerStatuses[0].restartCount}=1")

	description := b.kubectl("describe", "pod", p.name)
	b.Logf("kubectl describe pod:\n%s", description)
	b.Logf("kubectl get pod:\n%s", b.kubectl("get", "pod", p.name))
	b.wantPart(description, "Reason:       StartError", "Exit Code:    128",
		"postStart handler failed: exit status 3: no message today")
	b.wantPart(p.warnings(), "postStart handler failed: exit status 3: no message today")
	b.poll("the second try", func() bool { return strings.HasPrefix(p.log(), "start preStop TERM start preStop TERM") })
	if ready := p.status().ContainerStatuses[0].Ready; ready {
		b.Error("the container is Ready")
	}
}

// docs/spec.md#start-limit: that of the kubelet's request, runtimeRequestTimeout, less five seconds. The words are the shim's.
func TestPostStartTimesOut(t *testing.T) {
	b := on(t)
	p := b.create(restartPolicy(core.RestartPolicyNever), container("app", app, handlers("echo begun >> log; sleep 1000", "")))
	p.wait("jsonpath={.status.phase}=Failed")
	b.wantPart(p.warnings(), "postStart handler failed: timed out after 5") // 54s, say
	p.wantLog("start begun TERM")
}

// A pod that is deleted during postStart is stopped when that is through, as with the kubelet's own handlers: it deletes
// what it has started, KUBERNETES.md B6.
func TestDeletedDuringPostStart(t *testing.T) {
	b := on(t)
	p := b.create(nil, container("app", app, handlers(waiting+"echo through >> log", "echo preStop >> log")))
	p.waitFor("begun")
	done := p.deleteLater()
	p.wait("jsonpath={.metadata.deletionTimestamp}")
	b.Logf("kubectl get pod:\n%s", b.kubectl("get", "pod", p.name))
	p.touch("go")
	p.deleted(done)
	p.wantLog("start begun through preStop TERM")
}

// The kubelet starts containers one after the other, so a postStart holds back those that follow: KUBERNETES.md B3.
func TestContainersStartInOrder(t *testing.T) {
	b := on(t)
	p := b.create(grace(1), container("first", "echo first >> log; touch /tmp/started; sleep 1000", handlers(waiting+"echo through >> log", "")),
		container("second", "echo second >> log; sleep 1000", nil))
	p.waitFor("begun")
	p.touch("go")
	p.ready()
	b.poll("the second's first command, which a ready pod need not have run", func() bool { return strings.HasSuffix(p.log(), "second") })
	p.wantLog("first begun through second")
}

// A container of a pod that names the RuntimeClass and has no handlers, beside one of a pod that does not name it.
func TestWithoutHandlers(t *testing.T) {
	t.Parallel()
	for name, class := range map[string]*string{"lifecycle": ptr(cluster.RuntimeClass), "runc": nil} {
		t.Run(name, func(t *testing.T) {
			b := on(t)
			p := b.create(func(spec *core.PodSpec) { spec.RuntimeClassName = class }, container("app", app, nil))
			p.running()
			p.delete()
			p.wantLog("start TERM")
		})
	}
}
