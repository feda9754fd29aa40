package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/convert"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

const (
	// maxWords bounds a pod's refusals, and its warnings, in bytes.
	maxWords = 4 << 10
	// maxFinding bounds one of them, and maxID a text that is copied from a request.
	maxFinding, maxID = 1 << 10, 256
	// shownPaths bounds the places in the refusal of a pod whose handlers were not moved.
	shownPaths = 3
)

// review holds the fields of an AdmissionReview that are read. All others are skipped, so
// that reading takes little more memory than the body itself.
type review struct {
	metav1.TypeMeta
	Request *request `json:"request"`
}

type request struct {
	UID         types.UID                   `json:"uid"`
	Resource    metav1.GroupVersionResource `json:"resource"`
	SubResource string                      `json:"subResource"`
	Name        string                      `json:"name"`
	Namespace   string                      `json:"namespace"`
	Operation   admissionv1.Operation       `json:"operation"`
	UserInfo    struct {
		Username string `json:"username"`
	} `json:"userInfo"`
	Object object `json:"object"`
}

// object is a part of the body. It is not a copy.
type object []byte

func (o *object) UnmarshalJSON(data []byte) error {
	*o = data
	return nil
}

// decodeReview decodes an API server's request. Its errors are for clients that are not an
// API server.
func decodeReview(body []byte) (*review, error) {
	var read review
	if err := kjson.Unmarshal(body, &read); err != nil {
		return nil, fmt.Errorf("the body is not an AdmissionReview: %s", shorten.End(err.Error(), maxID))
	}
	if want := admissionv1.SchemeGroupVersion.String(); read.Kind != "AdmissionReview" || read.APIVersion != want {
		return nil, fmt.Errorf("the body is %q of %q; an AdmissionReview of %s is expected (admissionReviewVersions: [v1])",
			shorten.End(read.Kind, maxID), shorten.End(read.APIVersion, maxID), want)
	}
	if read.Request == nil {
		return nil, errors.New("the AdmissionReview has no request")
	}
	if len(read.Request.UID) > maxID {
		return nil, fmt.Errorf("the request's uid has more than %d bytes", maxID)
	}
	return &read, nil
}

// door answers a request. result names the outcome in the log. The error is ctx's.
type door func(ctx context.Context, from *request, rules convert.Rules) (response *admissionv1.AdmissionResponse, result string, err error)

// mutate converts the pod of a request.
func mutate(ctx context.Context, from *request, rules convert.Rules) (*admissionv1.AdmissionResponse, string, error) {
	response, operations, report, err := convertPod(ctx, from, rules)
	switch {
	case err != nil:
		return nil, "", err
	case report == nil:
		return response, "not concerned", nil
	}
	response.Warnings = texts(report.Warnings)
	if len(report.Refusals) > 0 {
		return refuse(response, texts(report.Refusals)), "refused", nil
	}
	if len(operations) == 0 {
		return response, "unchanged", nil
	}
	patch, err := json.Marshal(operations)
	if err != nil {
		return refuse(response, []string{err.Error()}), "refused", nil
	}
	response.Patch, response.PatchType = patch, new(admissionv1.PatchTypeJSONPatch)
	return response, "converted", nil
}

// validate refuses a pod whose handlers should have been moved but were not. This happens if
// the mutating webhook could not be reached, or if a later plugin changed the pod and the
// API server did not call the webhook again.
func validate(ctx context.Context, from *request, rules convert.Rules) (*admissionv1.AdmissionResponse, string, error) {
	response, operations, report, err := convertPod(ctx, from, rules)
	switch {
	case err != nil:
		return nil, "", err
	case report == nil:
		return response, "not concerned", nil
	case len(report.Refusals) > 0:
		return refuse(response, texts(report.Refusals)), "refused", nil
	case len(operations) == 0:
		return response, "moved", nil
	}
	return refuse(response, []string{fmt.Sprintf("%s still in spec, where the kubelet would run them, not RuntimeClass %s: the webhook that moves them could not be reached, "+
		"or was not called, as in kube-system (use lifecyclectl convert there), or after another admission plugin added both the handlers and the class; "+
		"see its log and `kubectl get mutatingwebhookconfigurations`",
		places(operations), rules.RuntimeClass)}), "refused", nil
}

// places names some of the handlers that a patch would remove.
func places(operations []convert.Operation) string {
	var paths []string
	for _, operation := range operations {
		if operation.Op == "remove" {
			paths = append(paths, strings.ReplaceAll(strings.TrimPrefix(operation.Path, "/"), "/", "."))
		}
	}
	if more := len(paths) - shownPaths; more > 0 {
		return fmt.Sprintf("%s and %d more are", strings.Join(paths[:shownPaths], ", "), more)
	}
	return strings.Join(paths, ", ") + " is"
}

// convertPod returns a nil report if the request is not about a new pod. A webhook
// configuration with wider rules may send such requests.
func convertPod(ctx context.Context, from *request, rules convert.Rules) (*admissionv1.AdmissionResponse, []convert.Operation, *convert.Report, error) {
	response := &admissionv1.AdmissionResponse{UID: from.UID, Allowed: true}
	pods := metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
	if from.Resource != pods || from.SubResource != "" || from.Operation != admissionv1.Create {
		return response, nil, nil, nil
	}
	operations, report, err := convert.Pod(ctx, from.Object, rules)
	return response, operations, report, err
}

// refuse sets the response that a validation of the API server itself would give.
func refuse(response *admissionv1.AdmissionResponse, why []string) *admissionv1.AdmissionResponse {
	response.Allowed = false
	response.Result = &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
		Message: strings.Join(why, "; "),
	}
	return response
}

// texts returns the findings, in at most maxWords bytes. The last text says how many are
// left out.
func texts(findings []convert.Finding) []string {
	var all []string
	size := 0
	for i, finding := range findings {
		text := shorten.End(finding.String(), maxFinding)
		if size += len(text); size > maxWords-maxID {
			return append(all, fmt.Sprintf("and %d more", len(findings)-i))
		}
		all = append(all, text)
	}
	return all
}
