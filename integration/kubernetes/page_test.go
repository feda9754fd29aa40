package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/events"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// pageFile is the manifest of the page "Attach Handlers to Container Lifecycle Events", as it is.
const pageFile = "testdata/lifecycle-events.yaml"

// The page's example, with nginx: what the page has its reader do, and then the end of the pod.
func TestPage(t *testing.T) {
	b := on(t)
	seen := b.events()
	p := &pod{b: b, name: "lifecycle-demo"}
	b.apply(b.converted(pageFile), p)
	if err := b.Bind(b.Context(), p.name); err != nil {
		b.Fatal(err)
	}
	p.ready()
	b.wantPart(b.kubectl("get", "pod", p.name), "lifecycle-demo   1/1     Running   0")
	if message := b.kubectl("exec", p.name, "--", "cat", "/usr/share/message"); message != "Hello from the postStart handler\n" {
		b.Errorf("the message is %q", message)
	}
	id := p.containerID("lifecycle-demo-container")
	b.wantHandlers(seen, id, "postStart Succeeded")

	took := p.delete()
	b.Logf("kubectl delete took %v", took)
	// nginx ends while preStop waits for its end: the usual good end.
	b.wantHandlers(seen, id, "postStart Succeeded", "preStop Aborted")
	exit, err := seen.WaitFor(b.Context(), limit, id, "/tasks/exit")
	if err != nil {
		b.Fatal(err)
	}
	if status := exit.Value.(*events.TaskExit).ExitStatus; status != 0 {
		b.Errorf("nginx exited with %d", status)
	}
	if left := b.kubectl("get", "pods", "--field-selector=metadata.name="+p.name); left != "" {
		b.Errorf("kubectl get pods still has %q", left)
	}
}

// converted is the manifest with its handlers moved into annotations, and the RuntimeClass.
func (b *bench) converted(file string) string {
	b.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	var object core.Pod
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		b.Fatal(err)
	}
	object.Spec.RuntimeClassName = ptr(cluster.RuntimeClass)
	object.Annotations = map[string]string{}
	for i, c := range object.Spec.Containers {
		block, err := json.Marshal(c.Lifecycle)
		if err != nil {
			b.Fatal(err)
		}
		object.Annotations[c.Name+".lifecycle-shim.io/lifecycle"] = string(block)
		object.Spec.Containers[i].Lifecycle = nil
	}
	manifest, err := json.Marshal(object)
	if err != nil {
		b.Fatal(err)
	}
	return string(manifest)
}

// containerID of the pod's container of that name, as containerd has it.
func (p *pod) containerID(name string) string {
	p.b.Helper()
	status := p.status()
	for _, c := range append(status.InitContainerStatuses, status.ContainerStatuses...) {
		if c.Name == name {
			return strings.TrimPrefix(c.ContainerID, "containerd://")
		}
	}
	p.b.Fatalf("the pod has no container %s", name)
	return ""
}

// wantHandlers waits until these handlers of a container have finished, with these results, and no others.
func (b *bench) wantHandlers(seen *harness.Events, id string, want ...string) {
	b.Helper()
	var got []string
	b.poll("the end of handlers", func() bool {
		got = nil
		for _, event := range seen.Of(id) {
			if finished, ok := event.Value.(*lifecyclev1.HandlerFinished); ok {
				got = append(got, fmt.Sprintf("%s %s", finished.Handler, finished.Result))
			}
		}
		return len(got) >= len(want)
	})
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.Errorf("handlers %q, want %q", got, want)
	}
}
