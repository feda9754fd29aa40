// Package platform has what a platform team may have in its API server beside this
// project's doors: admission plugins that set the RuntimeClass of other people's pods.
// Tests ask whether handlers are moved all the same.
package platform

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"

	admission "k8s.io/api/admission/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Label of the pods that a plugin takes, with the plugin's name as its value.
const Label = "platform"

// RuntimeClass is what they set.
const RuntimeClass = "lifecycle"

// Policy is the manifest of a MutatingAdmissionPolicy of that name, and of its binding.
func Policy(name string) string {
	return fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
  matchConditions: [{name: label, expression: "object.metadata.?labels[?'%[2]s'].orValue('') == '%[1]s'"}]
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: 'Object{spec: Object.spec{runtimeClassName: "%[3]s"}}'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec: {policyName: %[1]s}
`, name, Label, RuntimeClass)
}

// Webhook is a mutating webhook.
type Webhook struct{ server *httptest.Server }

// StartWebhook on the loopback.
func StartWebhook() *Webhook {
	return &Webhook{httptest.NewTLSServer(http.HandlerFunc(mutate))}
}

// Close ends it.
func (w *Webhook) Close() { w.server.Close() }

// Paths of what a webhook does.
const (
	SetClass    = "/class"             // sets the RuntimeClass
	AddHandlers = "/class-and-handler" // and adds a preStop to the first container
)

// Manifest of a configuration of that name, which also says when it is called: they are
// called in the order of their names.
func (w *Webhook) Manifest(name, path string) string {
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.server.Certificate().Raw})
	return fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: %[1]s}
webhooks:
- name: %[1]s.example.org
  clientConfig: {url: "%[2]s%[3]s", caBundle: %[4]s}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  objectSelector: {matchLabels: {%[5]s: %[1]s}}
  failurePolicy: Fail
  sideEffects: None
  reinvocationPolicy: Never
  admissionReviewVersions: [v1]
`, name, w.server.URL, path, base64.StdEncoding.EncodeToString(bundle), Label)
}

func mutate(w http.ResponseWriter, r *http.Request) {
	var review admission.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, "no review", http.StatusBadRequest)
		return
	}
	patch := []map[string]any{{"op": "add", "path": "/spec/runtimeClassName", "value": RuntimeClass}}
	if r.URL.Path == AddHandlers {
		handler := map[string]any{"preStop": map[string]any{"sleep": map[string]any{"seconds": 1}}}
		patch = append(patch, map[string]any{"op": "add", "path": "/spec/containers/0/lifecycle", "value": handler})
	}
	text, err := json.Marshal(patch)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	review.Response = &admission.AdmissionResponse{
		UID: review.Request.UID, Allowed: true, Patch: text, PatchType: new(admission.PatchTypeJSONPatch),
	}
	review.Request = nil
	review.TypeMeta = meta.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review) // the API server reports a lost answer
}
