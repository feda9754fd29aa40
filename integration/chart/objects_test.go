package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistration "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	node "k8s.io/api/node/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/yaml"
)

// documents of a stream.
func documents(stream string) []string {
	var documents []string
	for _, document := range regexp.MustCompile(`(?m)^---$`).Split(stream, -1) {
		if strings.TrimSpace(regexp.MustCompile(`(?m)^\s*#.*$`).ReplaceAllString(document, "")) != "" {
			documents = append(documents, document)
		}
	}
	return documents
}

// objects of a stream by kind, namespace and name.
func objects(t *testing.T, stream string) map[string]map[string]any {
	t.Helper()
	found := map[string]map[string]any{}
	for _, document := range documents(stream) {
		var object map[string]any
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			t.Fatalf("%v:\n%s", err, document)
		}
		metadata, _ := object["metadata"].(map[string]any)
		key := fmt.Sprint(object["apiVersion"], " ", object["kind"], " ", metadata["namespace"], "/", metadata["name"])
		if found[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		found[key] = object
	}
	return found
}

// A misspelt field, or one of the wrong type, is an error.
func TestObjectsAreStrict(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionregistration.AddToScheme, apps.AddToScheme, batch.AddToScheme, coordination.AddToScheme, core.AddToScheme,
		node.AddToScheme, policy.AddToScheme, rbac.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	decode := func(name, stream string) (kinds []string) {
		for _, document := range documents(stream) {
			if strings.Contains(document, "\napiVersion: cert-manager.io/v1\n") {
				continue // whose types are not Kubernetes'
			}
			object, kind, err := decoder.Decode([]byte(document), nil, nil)
			if err != nil {
				t.Errorf("%s: %v:\n%s", name, err, document)
				continue
			}
			_ = object
			kinds = append(kinds, kind.Kind)
		}
		return kinds
	}
	seen := map[string]bool{}
	for name, args := range scenarios {
		for _, kind := range decode(name, must(t, "helm3", args...)) {
			seen[kind] = true
		}
	}
	for _, kind := range []string{
		"ConfigMap", "DaemonSet", "Job", "Lease", "MutatingAdmissionPolicy", "MutatingWebhookConfiguration", "Pod", "PodDisruptionBudget",
		"ResourceQuota", "RuntimeClass", "Secret", "Service", "StatefulSet", "ValidatingAdmissionPolicy", "ValidatingWebhookConfiguration",
	} {
		if !seen[kind] {
			t.Errorf("no scenario renders a %s", kind)
		}
	}
	if _, _, err := decoder.Decode([]byte("apiVersion: v1\nkind: Pod\nspec: {container: []}"), nil, nil); err == nil {
		t.Error("a misspelt field is accepted")
	}
}

// TestKustomize: each kustomization builds the objects of its files, all of them and no others.
func TestKustomize(t *testing.T) {
	files := map[string][]string{
		"kubernetes/kustomization.yaml":                 {"installer/namespace.yaml", "installer/installer.yaml", "installer-policy.yaml", "policy.yaml"},
		"kubernetes/cluster-webhook/kustomization.yaml": {"installer/namespace.yaml", "installer/installer.yaml", "cluster-webhook/webhook.yaml"},
		"kubernetes/installer/kustomization.yaml":       {"installer/namespace.yaml", "installer/installer.yaml"},
	}
	for kustomization, files := range files {
		var stream []string
		for _, file := range files {
			text, err := os.ReadFile(filepath.Join(manifestsDir, file))
			if err != nil {
				t.Fatal(err)
			}
			stream = append(stream, string(text))
		}
		got := must(t, "kustomize", "build", filepath.Join(manifestsDir, "..", filepath.Dir(kustomization)))
		if diff := cmp.Diff(objects(t, strings.Join(stream, "\n---\n")), objects(t, got)); diff != "" {
			t.Errorf("%s:\n%s", kustomization, diff)
		}
	}
}

// TestPlainEqualsChart: what kubectl applies is what Helm installs, except for what only Helm needs.
func TestPlainEqualsChart(t *testing.T) {
	drop := func(objects map[string]map[string]any) map[string]map[string]any {
		for key, object := range objects {
			if slices.ContainsFunc([]string{" Pod ", " Namespace "}, func(kind string) bool { return strings.Contains(key, kind) }) {
				delete(objects, key) // `helm test`, and what Helm's user makes
				continue
			}
			text, err := yaml.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			text = regexp.MustCompile(`(?m)^ *(helm\.sh/.*|app\.kubernetes\.io/managed-by: .*)\n`).ReplaceAll(text, nil)
			text = regexp.MustCompile(`(?m)^  annotations:\n(  [a-z])`).ReplaceAll(text, []byte("$1"))
			object = nil
			if err := yaml.Unmarshal(text, &object); err != nil {
				t.Fatal(err)
			}
			objects[key] = object
		}
		return objects
	}
	uninstall, err := os.ReadFile(filepath.Join(manifestsDir, "uninstall.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for dir, args := range map[string][]string{".": template("1.37.0"), "cluster-webhook": template("1.31.0")} {
		plain := must(t, "kustomize", "build", filepath.Join(manifestsDir, dir)) + "\n---\n" + string(uninstall)
		if diff := cmp.Diff(drop(objects(t, must(t, "helm3", args...))), drop(objects(t, plain))); diff != "" {
			t.Errorf("%s:\n%s", dir, diff)
		}
	}
}
