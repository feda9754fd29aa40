package kubernetes

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

// blocksOf are the code blocks of that language in a section of docs/use/kubernetes.md.
func blocksOf(t *testing.T, section, language string) []string {
	t.Helper()
	return docpage.Blocks(docpage.Section(docpage.Read(t, "docs/use/kubernetes.md"), section), language)
}

// The cluster's part of the installation by hand, and the example, command by command; the node's part is tested under a
// containerd alone.
func TestDocumentation(t *testing.T) {
	b := alone(t)
	b.removePolicies()
	shell, yaml := append(blocksOf(t, "## By hand", "sh"), blocksOf(t, "### Example", "sh")...), blocksOf(t, "### Example", "yaml")
	if len(shell) != 3 || len(yaml) != 1 {
		t.Fatalf("%d blocks of commands and %d of YAML are found, want 3 and 1", len(shell), len(yaml))
	}
	page, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(strings.Replace(yaml[0], "  runtimeClassName: lifecycle\n", "", 1)) != strings.TrimSpace(string(page)) {
		t.Errorf("the manifest is not the page's with one line more:\n%s", yaml[0])
	}
	dir := t.TempDir()
	deploy, err := filepath.Abs("../../deploy")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(deploy, filepath.Join(dir, "deploy")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lifecycle-events.yaml"), []byte(yaml[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if _, err := b.Kubectl(ctx, "delete", "--ignore-not-found", "pod/lifecycle-demo"); err != nil {
			t.Error(err)
		}
	})
	seen := b.events()
	id := ""
	for line := range strings.Lines(shell[1] + shell[2]) {
		if strings.HasPrefix(line, "kubectl delete") {
			id = (&pod{b: b, name: "lifecycle-demo"}).containerID("lifecycle-demo-container")
		}
		command := exec.CommandContext(t.Context(), "bash", "-c", line)
		command.Dir = dir
		command.Env = []string{"KUBECONFIG=" + b.Kubeconfig, "HOME=" + dir, "PATH=" + filepath.Join(binDir(), "kubernetes") + ":/usr/bin:/bin"}
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s%v\n%s", line, err, out)
		}
		if _, want, found := strings.Cut(line, "message    # "); found && string(out) != want {
			t.Errorf("%sprints %q", line, out)
		}
		switch {
		case strings.Contains(line, "policy.yaml"):
			applyPolicies(t.Context(), t, b.API)
		case strings.Contains(line, "lifecycle-events.yaml"):
			if err := b.Bind(b.Context(), "lifecycle-demo"); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.wantHandlers(seen, id, pageHandlers...)
}

// A node with a real kubelet has no fault.
func TestDoctor(t *testing.T) {
	b := on(t)
	command := exec.CommandContext(t.Context(), filepath.Join(binDir(), "lifecyclectl"), "--address", b.Containerd.Address, "doctor", "-o", "json")
	out, err := command.Output()
	var found struct {
		Findings []struct{ Level, Check, Message string }
	}
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, finding := range found.Findings {
		if finding.Level == "fault" {
			t.Errorf("%+v", finding)
		}
	}
	if err != nil {
		t.Error(err)
	}
}
