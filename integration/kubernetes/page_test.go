package kubernetes

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/events"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// pageFile is the manifest of the page "Attach Handlers to Container Lifecycle Events", as it is.
const pageFile = "testdata/lifecycle-events.yaml"

// TestPage: the page's example, with nginx, through the two doors that need no server.
func TestPage(t *testing.T) {
	t.Parallel()
	for name, manifest := range map[string]func(*testing.T) string{"convert": convertedPage, "policy": pageWithClass} {
		t.Run(name, func(t *testing.T) {
			alone(t).tryPage(manifest(t)) // one after the other: the pod has one name
		})
	}
}

// pageWithClass is the page's manifest with one more line.
func pageWithClass(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(string(text), "\nspec:\n", "\nspec:\n  runtimeClassName: lifecycle\n", 1)
}

// convertedPage is what the converter makes of it.
func convertedPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := convert(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return string(manifest)
}

// tryPage does what the page has its reader do, and then ends the pod.
func (b *bench) tryPage(manifest string) {
	b.Helper()
	seen := b.events()
	p := &pod{b: b, name: "lifecycle-demo"}
	b.apply(manifest, p)
	p.wantMoved()
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
	b.wantHandlers(seen, id, pageHandlers...)
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

// wantHandlers waits until these handlers of a container have finished, and no others. Each is its name and the results
// that it may have.
func (b *bench) wantHandlers(seen *harness.Events, id string, want ...string) {
	b.Helper()
	var got []*lifecyclev1.HandlerFinished
	b.poll("the end of handlers", func() bool {
		got = nil
		for _, event := range seen.Of(id) {
			if finished, ok := event.Value.(*lifecyclev1.HandlerFinished); ok {
				got = append(got, finished)
			}
		}
		return len(got) >= len(want)
	})
	if !slices.EqualFunc(got, want, func(finished *lifecyclev1.HandlerFinished, want string) bool {
		words := strings.Fields(want)
		return finished.Handler == words[0] && slices.Contains(words[1:], finished.Result)
	}) {
		b.Errorf("handlers %v, want %q", got, want)
	}
}

// pageHandlers are those of the page when its pod has ended. nginx ends while preStop waits for that, which ends preStop
// too; or preStop has seen it, and ends by itself in the same moment.
var pageHandlers = []string{"postStart Succeeded", "preStop Aborted Succeeded"}
