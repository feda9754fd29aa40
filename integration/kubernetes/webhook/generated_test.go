package webhook

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"

	"github.com/lifecycle-shim/lifecycle-shim/internal/podgen"
)

// generatedPods is how many the webhook and the converter are compared on.
const generatedPods = 200

// What an API server makes of pods with the webhook is what `lifecyclectl convert` makes of them: all handlers, all strings.
func TestWebhookWritesWhatConvertWrites(t *testing.T) {
	h := newHooked(t)
	var stream bytes.Buffer
	for seed := range uint64(generatedPods) {
		stream.Write(podgen.JSON(seed))
		stream.WriteByte('\n')
	}
	file := filepath.Join(t.TempDir(), "pods.json")
	if err := os.WriteFile(file, stream.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(binDir(), "lifecyclectl"), "convert", "-f", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	admitted, err := h.Kubectl(t.Context(), "create", "--dry-run=server", "--validate=false", "-o", "json", "-f", file)
	if err != nil {
		t.Fatal(err)
	}
	want, got := pods(t, string(out)), pods(t, admitted)
	if len(want) != generatedPods || len(got) != generatedPods {
		t.Fatalf("%d pods are converted, and %d admitted", len(want), len(got))
	}
	for seed := range want {
		if !maps.Equal(want[seed].Annotations, got[seed].Annotations) {
			t.Errorf("seed %d: the annotations are %q, convert's %q", seed, got[seed].Annotations, want[seed].Annotations)
		}
		if handlersLeft(want[seed]) != handlersLeft(got[seed]) {
			t.Errorf("seed %d: the kubelet's handlers are those of %q, with convert those of %q", seed, handlersLeft(got[seed]), handlersLeft(want[seed]))
		}
	}
}

func pods(t *testing.T, stream string) []core.Pod {
	t.Helper()
	var all []core.Pod
	for decoder := json.NewDecoder(strings.NewReader(stream)); decoder.More(); {
		var pod core.Pod
		if err := decoder.Decode(&pod); err != nil {
			t.Fatal(err)
		}
		all = append(all, pod)
	}
	return all
}

// handlersLeft names the containers that still have native handlers.
func handlersLeft(pod core.Pod) string {
	var names []string
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if c.Lifecycle != nil && (c.Lifecycle.PostStart != nil || c.Lifecycle.PreStop != nil) {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, ", ")
}

// What the converter refuses reaches the user of kubectl in its words, and so do its warnings.
func TestWebhookSpeaks(t *testing.T) {
	h := newHooked(t)
	refused := h.create(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"runtimeClassName":"lifecycle","containers":[` +
		`{"name":"web","image":"x","lifecycle":{"preStop":{"httpGet":{"host":"example.com","port":"http"}}}}]}}`)
	for _, part := range []string{`admission webhook "pods.lifecycle-shim.io" denied the request`, `container web: lifecycle.preStop.httpGet.port: is the name "http"`} {
		if !strings.Contains(refused, part) {
			t.Errorf("%q does not say %q", refused, part)
		}
	}
	warned := h.create(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"web","image":"x"}],`+
		`"initContainers":[{"name":"proxy","image":"x","restartPolicy":"Always","lifecycle":{"preStop":{"sleep":{"seconds":1}}}}]}}`, "--warnings-as-errors", "--dry-run=server")
	if !strings.Contains(warned, "lifecycle.preStop: stays with the kubelet") {
		t.Errorf("%q does not warn", warned)
	}
}
