package chart

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

// needNodes are the page's commands that wait for what controllers and nodes do; integration/kubernetes/fleet has those.
var needNodes = []string{
	"kubectl -n lifecycle-shim rollout status ", "helm test ", "helm uninstall ", "kubectl -n lifecycle-shim wait ",
}

// TestDocumentation: docs/use/kubernetes.md installs the chart and the plain manifests.
func TestDocumentation(t *testing.T) {
	page := docpage.Read(t, "docs/use/kubernetes.md")
	for name, test := range map[string]struct {
		sections []string
		helm     string
		skipped  int
		choose   *strings.Replacer // of the page's alternatives
	}{
		"helm3":  {[]string{"## Install", "### Upgrade, rollback, uninstall"}, "helm3", 3, strings.NewReplacer()},
		"helm4":  {[]string{"## Install", "### Upgrade, rollback, uninstall"}, "helm4", 3, strings.NewReplacer()},
		"policy": {[]string{"### Plain manifests"}, "", 1, strings.NewReplacer("kubectl apply -k deploy/kubernetes/cluster-webhook", "true")},
		"webhook": {[]string{"### Plain manifests"}, "", 1, strings.NewReplacer(
			"kubectl apply -k deploy/kubernetes ", "true ", "kubectl delete -k deploy/kubernetes ", "kubectl delete -k deploy/kubernetes/cluster-webhook ")},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			programs := t.TempDir()
			links := map[string]string{"kubectl": "kubernetes/kubectl"}
			if test.helm != "" {
				links["helm"] = test.helm
			}
			for link, program := range links {
				if err := os.Symlink(filepath.Join(binDir(), program), filepath.Join(programs, link)); err != nil {
					t.Fatal(err)
				}
			}
			skipped := 0
			for _, section := range test.sections {
				text := docpage.Section(page, section)
				if section == "## Install" {
					text, _, _ = strings.Cut(text, "\n### ") // its subsections are other tests'
				}
				for _, block := range docpage.Blocks(text, "sh") {
					for line := range strings.Lines(block) {
						if needsNodes(line) {
							skipped++
							continue
						}
						b.shell(programs, test.choose.Replace(line))
					}
				}
			}
			if skipped != test.skipped {
				t.Errorf("%d commands need nodes, want %d", skipped, test.skipped)
			}
			if installed := b.ours(); (len(installed) > 0) != (test.helm != "") { // the plain manifests were deleted again
				t.Errorf("there is %q", installed)
			}
		})
	}
}

func needsNodes(line string) bool {
	for _, prefix := range needNodes {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// shell runs a line of the page at the top of the repository.
func (b *bench) shell(programs, line string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	// No controller ends the namespace.
	command := exec.CommandContext(ctx, "bash", "-c", strings.Replace(line, "kubectl delete ", "kubectl delete --wait=false ", 1))
	command.Dir = "../../.."
	command.Env = []string{"KUBECONFIG=" + b.Kubeconfig, "HOME=" + b.Dir, "PATH=" + programs + ":/usr/bin:/bin"}
	if out, err := command.CombinedOutput(); err != nil {
		b.Errorf("%s%v\n%s", line, err, out)
	}
}
