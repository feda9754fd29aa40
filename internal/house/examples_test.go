package house

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// TestExamplesAreListed: an example that its README does not name is not found.
func TestExamplesAreListed(t *testing.T) {
	list := read(t, "examples/README.md")
	for _, file := range files(t, func(path string) bool { return strings.HasPrefix(path, "examples/") }) {
		if name := filepath.Base(file); name != "README.md" && !strings.Contains(list, "("+name+")") {
			t.Errorf("examples/README.md does not list %s", name)
		}
	}
}

// TestExampleBlocks: the shim accepts the blocks of the examples that are no manifests. lifecyclectl's own tests check those.
func TestExampleBlocks(t *testing.T) {
	for file, block := range map[string]string{"docker-run.sh": flagOf(t, "examples/docker-run.sh"), "compose.yaml": annotationOf(t, "examples/compose.yaml")} {
		parsed, problems := oci.Parse(block, oci.Limits{})
		for _, problem := range problems {
			t.Errorf("examples/%s: %v", file, problem)
		}
		if parsed == nil || parsed.PostStart == nil || parsed.PreStop == nil {
			t.Errorf("examples/%s has no handlers", file)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-n", filepath.Join(root, "examples/docker-run.sh")).CombinedOutput(); err != nil {
		t.Errorf("examples/docker-run.sh: %v: %s", err, out)
	}
}

// flagOf returns the value of the annotation in a shell script's --annotation flag.
func flagOf(t *testing.T, file string) string {
	t.Helper()
	match := regexp.MustCompile(`(?s)--annotation '` + oci.KeyLifecycle + `=(.*?)'`).FindStringSubmatch(read(t, file))
	if match == nil {
		t.Fatalf("%s has no annotation", file)
	}
	return match[1]
}

// annotationOf returns the value of the annotation of a compose file's service.
func annotationOf(t *testing.T, file string) string {
	t.Helper()
	var project struct {
		Services map[string]struct{ Annotations map[string]string }
	}
	if err := yaml.Unmarshal([]byte(read(t, file)), &project); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return project.Services["web"].Annotations[oci.KeyLifecycle]
}
