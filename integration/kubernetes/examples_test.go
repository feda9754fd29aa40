package kubernetes

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// example reads a manifest of examples/.
func example(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../examples", file))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		t.Fatalf("examples/%s: %v", file, err)
	}
}

// fromTemplate creates the pod that a controller would create; the cluster has no controllers.
func (b *bench) fromTemplate(name string, template core.PodTemplateSpec) *pod {
	b.Helper()
	p := &pod{b: b, name: name}
	template.Spec.NodeName = cluster.NodeName
	manifest, err := json.Marshal(core.Pod{
		TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: template.Labels, Annotations: template.Annotations},
		Spec:       template.Spec,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.apply(string(manifest), p)
	return p
}

// examples/pod.yaml is the manifest that TestPage runs.
func TestExamplePod(t *testing.T) {
	var got, want core.Pod
	example(t, "pod.yaml", &got)
	if err := yaml.Unmarshal([]byte(pageWithClass(t)), &want); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got) // the types always encode
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("examples/pod.yaml is\n%s\nwant\n%s", a, b)
	}
}

// A pod of the Deployment becomes ready, and drains: its preStop waits, and then stops nginx.
func TestExampleDeployment(t *testing.T) {
	b := on(t)
	var deployment apps.Deployment
	example(t, "deployment.yaml", &deployment)
	seen := b.events()
	p := b.fromTemplate("example-web", deployment.Spec.Template)
	p.wantMoved()
	p.ready()
	id := p.containerID("web")
	if took := p.delete(); took < 5*time.Second {
		t.Errorf("the pod was gone after %v, and its preStop waits 5 s", took)
	}
	b.wantHandlers(seen, id, pageHandlers[1])
}

// The pod of the Job fails, and onExit's report is the message of the terminated container.
func TestExampleJob(t *testing.T) {
	b := on(t)
	var job batch.Job
	example(t, "job.yaml", &job)
	template := job.Spec.Template
	if len(template.Spec.Containers) != 1 || template.Spec.Containers[0].Image != "busybox" {
		t.Fatalf("the Job's containers are %+v", template.Spec.Containers)
	}
	template.Spec.Containers[0].Image = harness.ImageBusybox // the node has it
	template.Spec.Containers[0].ImagePullPolicy = core.PullNever
	p := b.fromTemplate("example-report", template)
	p.wait("jsonpath={.status.containerStatuses[0].state.terminated}")
	terminated := p.status().ContainerStatuses[0].State.Terminated
	if terminated.ExitCode != 3 || strings.TrimSpace(terminated.Message) != "exit-code 3" {
		t.Errorf("exit status %d, message %q, want 3 and exit-code 3", terminated.ExitCode, terminated.Message)
	}
}
