package house

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// root is the top of the repository.
const root = "../.."

// TestPins: the shim is tested under the containerd and runc that it is built from, so every module that both the product's and
// the integration tests' go.mod name has the same version in both.
func TestPins(t *testing.T) {
	product, tests := goMod(t, "."), goMod(t, "integration")
	shared := 0
	for path, version := range product {
		if tests[path] == "" {
			continue
		}
		shared++
		if tests[path] != version {
			t.Errorf("%s is %s in go.mod and %s in integration/go.mod", path, version, tests[path])
		}
	}
	for _, path := range []string{
		"github.com/containerd/containerd/v2", "github.com/containerd/containerd/api", "github.com/containerd/go-runc", "github.com/containerd/ttrpc",
		"github.com/opencontainers/cgroups", "github.com/opencontainers/runc", "github.com/opencontainers/runtime-spec",
	} {
		if product[path] == "" || tests[path] == "" {
			t.Errorf("%s is missing: go.mod has %q, integration/go.mod has %q", path, product[path], tests[path])
		}
	}
	if shared < 60 {
		t.Errorf("go.mod and integration/go.mod share %d modules, at least 60 are expected", shared)
	}
}

// TestServerPins: each module of servers pins one release. Kubernetes names its own modules by folders of its repository, so
// their versions are in replace directives, and all must be those of the release.
func TestServerPins(t *testing.T) {
	for dir, want := range map[string]map[string]string{
		"containerd-1.7":     {"github.com/containerd/containerd": "v1.7."},
		"docker/servers":     {"github.com/moby/moby/v2": "v2.", "github.com/docker/cli": "v29.", "github.com/docker/compose/v5": "v5."},
		"kubernetes/servers": {"k8s.io/kubernetes": "v1.", "go.etcd.io/etcd/server/v3": "v3."},
	} {
		pins := goMod(t, filepath.Join("integration", dir))
		for path, prefix := range want {
			if !strings.HasPrefix(pins[path], prefix) {
				t.Errorf("%s: %s is %q, want %s…", dir, path, pins[path], prefix)
			}
		}
	}
	file := parse(t, "integration/kubernetes/servers")
	release := strings.Replace(goMod(t, "integration/kubernetes/servers")["k8s.io/kubernetes"], "v1.", "v0.", 1)
	for _, replace := range file.Replace {
		if replace.New.Version != release {
			t.Errorf("kubernetes/servers: %s is %s, and Kubernetes' release is %s", replace.New.Path, replace.New.Version, release)
		}
	}
	if len(file.Replace) < 20 {
		t.Errorf("kubernetes/servers replaces %d modules, at least 20 are expected", len(file.Replace))
	}
}

// goMod returns the versions that the go.mod in a folder of the repository requires.
func goMod(t *testing.T, dir string) map[string]string {
	t.Helper()
	versions := map[string]string{}
	for _, require := range parse(t, dir).Require {
		versions[require.Mod.Path] = require.Mod.Version
	}
	return versions
}

func parse(t *testing.T, dir string) *modfile.File {
	t.Helper()
	name := filepath.Join(root, dir, "go.mod")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse(name, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
