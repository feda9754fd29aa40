package kubernetes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// annotated makes a pod, as a Job makes them, whose container has a block that Kubernetes has no fields for.
func (b *bench) annotated(block string, c core.Container) *pod {
	b.Helper()
	p := &pod{b: b, name: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(b.Name())), dir: b.TempDir()}
	manifest, err := json.Marshal(core.Pod{
		TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: meta.ObjectMeta{Name: p.name, Annotations: map[string]string{c.Name + ".lifecycle-shim.io/lifecycle": block}},
		Spec: core.PodSpec{
			NodeName: cluster.NodeName, RuntimeClassName: ptr(cluster.RuntimeClass), Containers: []core.Container{c}, RestartPolicy: core.RestartPolicyNever,
			Volumes: []core.Volume{{Name: "work", VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: p.dir}}}},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.apply(string(manifest), p)
	return p
}

// shell is a handler, in YAML, that runs a shell script.
func shell(script string) string {
	return fmt.Sprintf("{exec: {command: [/bin/sh, -c, %q]}}", script)
}

// How a Job's container ends: onExit runs once, with the right result, and the kubelet's own report is unchanged.
func TestOnExit(t *testing.T) {
	for name, end := range map[string]struct {
		script, reason, told string
		code                 int32
		delete               bool
	}{
		"completed": {"exit 0", "Completed", "completed 0", 0, false},
		"code":      {"exit 3", "Error", "exit-code 3", 3, false},
		"oom":       {"exec tail /dev/zero", "OOMKilled", "oom-kill SIGKILL", 137, false},
		"sigkill":   {"touch /tmp/started started; trap '' TERM; while :; do sleep 0.1; done", "", "signal SIGKILL", 137, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := on(t)
			c := container("app", end.script, nil)
			c.Resources.Limits = core.ResourceList{core.ResourceMemory: resource.MustParse("32Mi")}
			const block = `{preStart: %s, onExit: %s}`
			p := b.annotated(fmt.Sprintf(block, shell("echo preStart >> log"), shell(`sleep 0.5; echo "$LIFECYCLE_HANDLER $LIFECYCLE_RESULT $LIFECYCLE_EXIT_CODE $LIFECYCLE_SIGNAL" >> log`)), c)
			if end.delete {
				p.waitFor("started")
				p.delete("--grace-period=2")
			} else {
				p.wait("jsonpath={.status.containerStatuses[0].state.terminated}")
				terminated := p.status().ContainerStatuses[0].State.Terminated
				if terminated.ExitCode != end.code || terminated.Reason != end.reason {
					b.Errorf("terminated %+v, want %d, %s", terminated, end.code, end.reason)
				}
			}
			p.wantLog("preStart onExit " + end.told)
		})
	}
}

// A preStart that fails: the kubelet reports its message, and the entrypoint never runs.
func TestPreStartFails(t *testing.T) {
	b := on(t)
	p := b.annotated("{preStart: "+shell("echo last words; exit 3")+", onExit: "+shell("echo $LIFECYCLE_RESULT >> log")+"}", container("app", "echo wrong >> log", nil))
	p.wait("jsonpath={.status.containerStatuses[0].state.terminated}")
	terminated := p.status().ContainerStatuses[0].State.Terminated
	b.wantPart(terminated.Message, "preStart handler failed: exit status 3: last words")
	if terminated.Reason != "StartError" {
		b.Errorf("terminated %+v, want StartError", terminated)
	}
	p.wantLog("start-failed")
}
