package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifecycle-shim/lifecycle-shim/oci/convert"
)

// decodeReview takes the API server's request apart. The error is for whoever is
// no API server.
func decodeReview(body []byte) (*admissionv1.AdmissionReview, error) {
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, fmt.Errorf("the body is no AdmissionReview: %w", err)
	}
	if want := admissionv1.SchemeGroupVersion.String(); review.Kind != "AdmissionReview" || review.APIVersion != want {
		return nil, fmt.Errorf("the body is %q of %q; an AdmissionReview of %s is expected (admissionReviewVersions: [v1])", review.Kind, review.APIVersion, want)
	}
	if review.Request == nil {
		return nil, errors.New("the AdmissionReview has no request")
	}
	return &review, nil
}

// answer converts the pod of a request. What the result is called is for the log.
func answer(request *admissionv1.AdmissionRequest, runtimeClass string) (response *admissionv1.AdmissionResponse, result string) {
	response = &admissionv1.AdmissionResponse{UID: request.UID, Allowed: true}
	if !concerned(request, runtimeClass) {
		return response, "not concerned"
	}
	operations, report := convert.Pod(request.Object.Raw, runtimeClass)
	response.Warnings = texts(report.Warnings)
	if len(report.Refusals) > 0 {
		return refuse(response, texts(report.Refusals)), "refused"
	}
	if len(operations) == 0 {
		return response, "unchanged"
	}
	patch, err := json.Marshal(operations)
	if err != nil {
		return refuse(response, []string{err.Error()}), "refused"
	}
	response.Patch, response.PatchType = patch, new(admissionv1.PatchTypeJSONPatch)
	return response, "converted"
}

// concerned tells a new pod that names the runtime class from all else, which a
// wider webhook configuration may send.
func concerned(request *admissionv1.AdmissionRequest, runtimeClass string) bool {
	pods := metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
	if request.Resource != pods || request.SubResource != "" || request.Operation != admissionv1.Create {
		return false
	}
	var pod struct {
		Spec struct {
			RuntimeClassName *string `json:"runtimeClassName"`
		} `json:"spec"`
	}
	err := json.Unmarshal(request.Object.Raw, &pod)
	return err == nil && pod.Spec.RuntimeClassName != nil && *pod.Spec.RuntimeClassName == runtimeClass
}

// refuse: as a validation of the API server's own would.
func refuse(response *admissionv1.AdmissionResponse, why []string) *admissionv1.AdmissionResponse {
	response.Allowed = false
	response.Result = &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
		Message: strings.Join(why, "; "),
	}
	return response
}

func texts(findings []convert.Finding) []string {
	var all []string
	for _, finding := range findings {
		all = append(all, finding.String())
	}
	return all
}
