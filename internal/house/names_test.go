package house

import (
	"strings"
	"testing"
)

// TestNames holds docs/spec.md#names: other people's configurations contain these names, so they never change.
func TestNames(t *testing.T) {
	names := map[string]string{ // name → a file that would have to change with it, and what it has there
		"io.containerd.lifecycle.v2":               "deploy/containerd/2.x/lifecycle.toml\nruntime_type = 'io.containerd.lifecycle.v2'",
		"containerd-shim-lifecycle-v2":             "cmd/containerd-shim-lifecycle-v2/main.go\npackage main",
		"lifecyclectl":                             "cmd/lifecyclectl/main.go\npackage main",
		"lifecycle":                                "deploy/kubernetes/runtimeclass.yaml\nhandler: lifecycle\n",
		"github.com/lifecycle-shim/lifecycle-shim": "go.mod\nmodule github.com/lifecycle-shim/lifecycle-shim\n",
		"lifecycle.v1":                             "proto/lifecycle/v1/status.proto\npackage lifecycle.v1;",
	}
	page := read(t, specification)
	for name, place := range names {
		file, text, _ := strings.Cut(place, "\n")
		if !strings.Contains(read(t, file), text) {
			t.Errorf("%s does not have %q", file, text)
		}
		if !strings.Contains(page, "| `"+name+"` |") {
			t.Errorf("%s does not have the name %s", specification, name)
		}
	}
}
