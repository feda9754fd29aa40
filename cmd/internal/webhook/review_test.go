package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/convert"
	"github.com/lifecycle-shim/lifecycle-shim/internal/podgen"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

func newRequest(pod string) *admissionv1.AdmissionRequest {
	return &admissionv1.AdmissionRequest{
		UID: "5b5a", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
		Resource:  metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
		Namespace: "default", Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: []byte(pod)},
	}
}

// reviewOf is what an API server sends.
func reviewOf(t testing.TB, pod string) []byte {
	t.Helper()
	return encode(t, newRequest(pod))
}

func encode(t testing.TB, request *admissionv1.AdmissionRequest) []byte {
	t.Helper()
	text, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: "admission.k8s.io/v1"}, Request: request,
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// page is the pod of Kubernetes' page as an API server sends it, with defaults.
const page = `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"lifecycle-demo","namespace":"default","creationTimestamp":null},"spec":{` +
	`"runtimeClassName":"lifecycle","containers":[{"name":"web","image":"nginx","lifecycle":{` +
	`"postStart":{"exec":{"command":["/bin/sh","-c","echo Hello from the postStart handler > /usr/share/message"]}},` +
	`"preStop":{"exec":{"command":["/bin/sh","-c","nginx -s quit; while killall -0 nginx; do sleep 1; done"]}}}}],"terminationGracePeriodSeconds":30},"status":{}}`

// answer is what a door says to a request, by way of its JSON.
func answer(t testing.TB, through door, asked *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, string) {
	t.Helper()
	read, err := decodeReview(encode(t, asked))
	if err != nil {
		t.Fatal(err)
	}
	response, result, err := through(context.Background(), read.Request, convert.Rules{RuntimeClass: "lifecycle"})
	if err != nil {
		t.Fatal(err)
	}
	return response, result
}

// TestPage: the page's example, over TLS, as an API server would.
func TestPage(t *testing.T) {
	r := run(t, DefaultLimits())
	response, text := r.ask(r.request("POST", Path, string(reviewOf(t, page))))
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %s", response.Status, text)
	}
	var got admissionv1.AdmissionReview
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if got.Kind != "AdmissionReview" || got.APIVersion != "admission.k8s.io/v1" || got.Response.UID != "5b5a" || !got.Response.Allowed ||
		*got.Response.PatchType != admissionv1.PatchTypeJSONPatch || len(got.Response.Warnings) > 0 {
		t.Fatalf("got %s", text)
	}
	var pod struct {
		Metadata struct{ Annotations map[string]string }
		Spec     struct{ Containers []map[string]any }
	}
	if err := json.Unmarshal(patched(t, page, got.Response.Patch), &pod); err != nil {
		t.Fatal(err)
	}
	want := `{"postStart":{"exec":{"command":["/bin/sh","-c","echo Hello from the postStart handler > /usr/share/message"]}},` +
		`"preStop":{"exec":{"command":["/bin/sh","-c","nginx -s quit; while killall -0 nginx; do sleep 1; done"]}},"terminationGracePeriodSeconds":30}`
	if got := pod.Metadata.Annotations; len(got) != 1 || got["web.lifecycle-shim.io/lifecycle"] != want {
		t.Errorf("the annotations are %v", got)
	}
	if got := pod.Spec.Containers[0]; got["lifecycle"] != nil || got["image"] != "nginx" {
		t.Errorf("the container is %v", got)
	}
	r.stop()
	r.wantEnd("")
}

// patched applies a patch as the API server does, with the same library.
func patched(t *testing.T, pod string, operations []byte) []byte {
	t.Helper()
	patch, err := jsonpatch.DecodePatch(operations)
	if err != nil {
		t.Fatal(err)
	}
	result, err := patch.Apply([]byte(pod))
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// TestAnswers: what is done with each request.
func TestAnswers(t *testing.T) {
	with := func(change func(*admissionv1.AdmissionRequest)) *admissionv1.AdmissionRequest {
		request := newRequest(page)
		change(request)
		return request
	}
	change := func(old, replacement string) *admissionv1.AdmissionRequest {
		pod := strings.Replace(page, old, replacement, 1)
		if pod == page {
			t.Fatalf("the page has no %s", old)
		}
		return newRequest(pod)
	}
	for name, test := range map[string]struct {
		request         *admissionv1.AdmissionRequest
		result          string
		refused, warned string
	}{
		"a pod":                   {request: newRequest(page), result: "converted"},
		"without a runtime class": {request: change(`"runtimeClassName":"lifecycle",`, ""), result: "unchanged"},
		"another runtime class":   {request: change(`"runtimeClassName":"lifecycle"`, `"runtimeClassName":"gvisor"`), result: "unchanged"},
		"no handlers":             {request: change(`"lifecycle":{`, `"other":{`), result: "unchanged"},
		"an update":               {request: with(func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Update }), result: "not concerned"},
		"a subresource":           {request: with(func(r *admissionv1.AdmissionRequest) { r.SubResource = "ephemeralcontainers" }), result: "not concerned"},
		"another resource":        {request: with(func(r *admissionv1.AdmissionRequest) { r.Resource.Resource = "services" }), result: "not concerned"},
		"no object":               {request: newRequest("null"), result: "unchanged"},
		"a host's name": {
			request: change(`"preStop":{"exec":`, `"preStop":{"httpGet":{"host":"example.com","port":80},"x":`),
			result:  "refused", refused: "Pod/lifecycle-demo: container web: lifecycle.preStop.x: is not a known field",
		},
		"two refusals": {
			request: change(`"preStop":{"exec":{"command":["/bin/sh"`, `"preStop":{"httpGet":{"host":"example.com","port":0},"z":{"command":["/bin/sh"`),
			result:  "refused", refused: "is not a known field",
		},
		"a generated name": {
			request: change(`"name":"lifecycle-demo"`, `"generateName":"web-","annotations":{"lifecycle-shim.io/prestop":"x"}`),
			result:  "refused", refused: `Pod/web-…: metadata.annotations: annotation "lifecycle-shim.io/prestop" is not a known key`,
		},
		"annotated already": {
			request: change(`"name":"lifecycle-demo"`, `"name":"a","annotations":{"lifecycle-shim.io/lifecycle":"{}"}`),
			result:  "refused", refused: `lifecycle.postStart: is not in the annotation "lifecycle-shim.io/lifecycle"`,
		},
		"Windows": {
			request: change(`"containers":[{`, `"os":{"name":"windows"},"containers":[{`), result: "unchanged", warned: "is for Windows (os.name: windows)",
		},
		"a sidecar": {
			request: change(`"containers":[{`, `"containers":[{"name":"main"}],"initContainers":[{"restartPolicy":"Always",`),
			result:  "converted", warned: "lifecycle.preStop: stays with the kubelet",
		},
	} {
		t.Run(name, func(t *testing.T) {
			response, result := answer(t, mutate, test.request)
			if result != test.result || response.UID != test.request.UID || response.Allowed != (test.refused == "") || (response.Patch != nil) != (result == "converted") {
				t.Fatalf("got %s, %+v", result, response)
			}
			if (response.PatchType != nil) != (response.Patch != nil) {
				t.Errorf("the patch's type is %v", response.PatchType)
			}
			if warned := strings.Join(response.Warnings, "\n"); (warned == "") != (test.warned == "") || !strings.Contains(warned, test.warned) {
				t.Errorf("warned of %q", warned)
			}
			if test.refused == "" {
				return
			}
			if s := response.Result; s.Code != http.StatusUnprocessableEntity || s.Reason != metav1.StatusReasonInvalid || s.Status != metav1.StatusFailure || !strings.Contains(s.Message, test.refused) {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// TestGeneratedPods get from the webhook what lifecyclectl convert makes of them.
func TestGeneratedPods(t *testing.T) {
	for seed := range uint64(100) {
		pod := podgen.JSON(seed)
		response, _ := answer(t, mutate, newRequest(string(pod)))
		want, report := convert.Stream(pod, convert.Rules{RuntimeClass: podgen.RuntimeClass})
		if !response.Allowed || len(report.Refusals) > 0 {
			t.Fatalf("seed %d: %v, %v", seed, response.Result, report.Refusals)
		}
		got := pod
		if response.Patch != nil {
			got = patched(t, string(pod), response.Patch)
		}
		if !sameJSON(t, got, want) {
			t.Fatalf("seed %d: got %s, want %s", seed, got, want)
		}
	}
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var first, second any
	if err := json.Unmarshal(a, &first); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &second); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(first, second)
}

// FuzzReview: every request gets an answer, and its patch can be applied.
func FuzzReview(f *testing.F) {
	f.Add(reviewOf(f, page))
	f.Add(reviewOf(f, `{"spec":{"runtimeClassName":"lifecycle","containers":[{"lifecycle":{"preStop":{}}}]}}`))
	for seed := range uint64(10) {
		f.Add(reviewOf(f, string(podgen.JSON(seed))))
	}
	f.Add([]byte("{}"))
	server := New(Config{RuntimeClass: "lifecycle", Limits: DefaultLimits()})
	f.Fuzz(func(t *testing.T, body []byte) {
		recorder := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodPost, Path, strings.NewReader(string(body)))
		request.Header.Set("Content-Type", "application/json")
		server.handler().ServeHTTP(recorder, request)
		if recorder.Code != http.StatusOK {
			if recorder.Code != http.StatusBadRequest && recorder.Code != http.StatusRequestEntityTooLarge {
				t.Fatalf("got %d: %s", recorder.Code, recorder.Body)
			}
			return
		}
		var answered, asked admissionv1.AdmissionReview
		if err := json.Unmarshal(recorder.Body.Bytes(), &answered); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body, &asked); err != nil {
			t.Fatal(err)
		}
		response := answered.Response
		if response.UID != asked.Request.UID || response.Allowed == (response.Result != nil) {
			t.Fatalf("got %s", recorder.Body)
		}
		if response.Patch == nil {
			return
		}
		asked.Request.Object.Raw = patched(t, string(asked.Request.Object.Raw), response.Patch)
		if again, result := answer(t, mutate, asked.Request); !again.Allowed || result == "converted" {
			t.Fatalf("the patched pod is %s: %v", result, again.Result)
		}
	})
}

// TestLimits: docs/spec.md#operator-limits, as an API server asks.
func TestLimits(t *testing.T) {
	pod := strings.Replace(page, `{"exec":{"command":["/bin/sh","-c","nginx -s quit; while killall -0 nginx; do sleep 1; done"]}}`, `{"sleep":{"seconds":21}}`, 1)
	server := httptest.NewServer(New(Config{RuntimeClass: "lifecycle", HandlerLimits: oci.Limits{MaxTimeout: 20 * time.Second}, Limits: DefaultLimits()}).handler())
	defer server.Close()
	for _, path := range []string{Path, ValidatePath} {
		response, err := http.Post(server.URL+path, "application/json", bytes.NewReader(reviewOf(t, pod)))
		if err != nil {
			t.Fatal(err)
		}
		var answered admissionv1.AdmissionReview
		err = json.NewDecoder(response.Body).Decode(&answered)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		const want = "Pod/lifecycle-demo: container web: lifecycle.preStop.sleep.seconds: is 21; the operator's limit MaxTimeout is 20"
		if answered.Response.Allowed || answered.Response.Result.Message != want {
			t.Errorf("%s: got %+v", path, answered.Response)
		}
	}
}
