package convert

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kyaml "sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/internal/podgen"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// generatedPods is how many are compared. Many more were, without a difference; the
// race detector makes each of them take 20 ms.
const generatedPods = 400

// TestGeneratedPods: the block that the shim reads is what Kubernetes' types say, for
// every container and every string; and nothing else of the pod has changed.
func TestGeneratedPods(t *testing.T) {
	moved, inYAML := 0, 0
	for seed := range uint64(generatedPods) {
		pod := podgen.Pod(seed)
		text := podgen.JSON(seed)
		operations, report, err := Pod(t.Context(), text, inClass)
		if err != nil {
			t.Fatal(err)
		}
		for _, refusal := range report.Refusals {
			t.Fatalf("seed %d: %s", seed, refusal)
		}
		patched := patch(t, text, operations)
		var got corev1.Pod
		if err := json.Unmarshal(patched, &got); err != nil {
			t.Fatal(err)
		}
		moved += compare(t, pod, &got)
		if t.Failed() {
			t.Fatalf("seed %d: %s", seed, text)
		}
		sameAsStream(t, text, patched)
		if sameAsYAML(t, text) {
			inYAML++
		}
		if again, _, err := Pod(t.Context(), patched, inClass); len(again) > 0 || err != nil {
			t.Errorf("seed %d: converted twice: %v", seed, again)
		}
	}
	if moved < generatedPods || inYAML < generatedPods/4 {
		t.Errorf("only %d containers' handlers were moved, and %d pods could be written in YAML", moved, inYAML)
	}
}

func patch(t *testing.T, text []byte, operations []Operation) []byte {
	t.Helper()
	encoded, err := json.Marshal(append([]Operation{}, operations...))
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := jsonpatch.DecodePatch(encoded)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := decoded.Apply(text)
	if err != nil {
		t.Fatal(err)
	}
	return patched
}

// compare takes the moved handlers out of the original, and wants the rest to be
// the same. It returns how many containers' were moved.
func compare(t *testing.T, before, after *corev1.Pod) int {
	t.Helper()
	moved := 0
	for _, list := range [][]corev1.Container{before.Spec.Containers, before.Spec.InitContainers} {
		for i := range list {
			c := &list[i]
			key := c.Name + ".lifecycle-shim.io/lifecycle"
			annotated := before.Annotations[oci.KeyLifecycle] != "" || before.Annotations[key] != ""
			native := movedOf(before, c, annotated)
			if native == nil {
				continue
			}
			moved++
			got, err := oci.ContainerSpec(after.Annotations, c.Name).Lifecycle()
			if err != nil {
				t.Fatal(err)
			}
			if want := wanted(t, before, c, native); !proto.Equal(got.Block, want) {
				t.Errorf("%s has %v, want %v", c.Name, got.Block, want)
			}
			remove := func(handler **corev1.LifecycleHandler, moved *corev1.LifecycleHandler) {
				if moved != nil {
					*handler = nil
				}
			}
			remove(&c.Lifecycle.PostStart, native.PostStart)
			remove(&c.Lifecycle.PreStop, native.PreStop)
			if *c.Lifecycle == (corev1.Lifecycle{}) {
				c.Lifecycle = nil
			}
			if !annotated {
				delete(after.Annotations, key)
			}
		}
	}
	if len(after.Annotations) == 0 {
		after.Annotations = nil
	}
	if !reflect.DeepEqual(before, after) {
		t.Errorf("it has become %v, want %v", after, before)
	}
	return moved
}

// movedOf returns the lifecycle with the handlers that must be moved, nil without any.
// A sidecar's preStop stays, unless an annotation speaks of it.
func movedOf(pod *corev1.Pod, c *corev1.Container, annotated bool) *corev1.Lifecycle {
	lifecycle := c.Lifecycle.DeepCopy()
	if lifecycle == nil {
		return nil
	}
	if c.RestartPolicy != nil && pod.Annotations[oci.KeySidecars] != oci.SidecarsMove && !annotated {
		lifecycle.PreStop = nil
	}
	if lifecycle.PostStart == nil && lifecycle.PreStop == nil {
		return nil
	}
	return lifecycle
}

// wanted goes from Kubernetes' types to ours through JSON.
func wanted(t *testing.T, pod *corev1.Pod, c *corev1.Container, lifecycle *corev1.Lifecycle) *lifecyclev1.Block {
	t.Helper()
	lifecycle = lifecycle.DeepCopy()
	for _, handler := range []*corev1.LifecycleHandler{lifecycle.PostStart, lifecycle.PreStop} {
		switch {
		case handler == nil:
		case handler.HTTPGet != nil:
			number(&handler.HTTPGet.Port, c.Ports)
			if handler.HTTPGet.Path == "" {
				handler.HTTPGet.Path = "/"
			}
			if handler.HTTPGet.Scheme == "" {
				handler.HTTPGet.Scheme = "HTTP"
			}
		case handler.TCPSocket != nil:
			number(&handler.TCPSocket.Port, c.Ports)
		}
	}
	text, err := json.Marshal(lifecycle)
	if err != nil {
		t.Fatal(err)
	}
	block := &lifecyclev1.Block{}
	if err := protojson.Unmarshal(text, block); err != nil {
		t.Fatal(err)
	}
	grace := int64(30)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		grace = max(*pod.Spec.TerminationGracePeriodSeconds, 1)
	}
	block.TerminationGracePeriodSeconds = &grace
	return block
}

func number(port *intstr.IntOrString, ports []corev1.ContainerPort) {
	if port.Type == intstr.String {
		i := slices.IndexFunc(ports, func(p corev1.ContainerPort) bool { return p.Name == port.StrVal })
		*port = intstr.FromInt32(ports[i].ContainerPort)
	}
}

// sameAsStream: the patch and the rewritten text are the same pod.
func sameAsStream(t *testing.T, text, patched []byte) {
	t.Helper()
	result, report := Stream(text, inClass)
	for _, refusal := range report.Refusals {
		t.Fatal(refusal)
	}
	want, _ := decodeObject(patched)
	if got, ok := decodeObject(result); !ok || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %s, want %s", result, patched)
	}
}

// sameAsYAML: so is the pod in YAML. What Kubernetes' library writes is not always
// what it was given, so it is read back first.
func sameAsYAML(t *testing.T, text []byte) bool {
	t.Helper()
	asYAML, err := kyaml.JSONToYAML(text)
	if err != nil {
		return false // it cannot write all characters
	}
	meaning, err := kyaml.YAMLToJSON(asYAML)
	if err != nil {
		t.Fatal(err)
	}
	operations, report, err := Pod(t.Context(), meaning, inClass)
	if err != nil {
		t.Fatal(err)
	}
	result, reportOfStream := Stream(asYAML, inClass)
	if len(report.Refusals)+len(reportOfStream.Refusals) > 0 {
		t.Fatalf("%v, %v: %s", report.Refusals, reportOfStream.Refusals, asYAML)
	}
	back, err := kyaml.YAMLToJSON(result)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := decodeObject(patch(t, meaning, operations))
	if got, ok := decodeObject(back); !ok || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %s, want %s", back, want)
	}
	return true
}
