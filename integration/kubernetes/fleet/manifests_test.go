package fleet

import (
	"strings"
	"testing"
)

const manifests = "../../../deploy/kubernetes"

// kubectl apply of the plain manifests does what the chart does, and their Job of uninstall leaves each node as it was.
func TestPlainManifests(t *testing.T) {
	b := on(t)
	before := b.allFiles()
	b.pushProduct()
	b.Cleanup(func() {
		if b.Failed() {
			b.explain()
			b.abandon()
		}
	})
	all := b.kubectl("kustomize", manifests)
	if !strings.Contains(all, "--restart-by=systemd") {
		b.Fatal("the manifests have no --restart-by=systemd")
	}
	all = strings.ReplaceAll(all, "--restart-by=systemd", "--restart-by=terminate") // as its comment says for such nodes
	b.apply(all)
	b.admits()
	for _, n := range b.Nodes {
		b.apply(example("plain-"+n.Name, n.Name))
	}
	for _, n := range b.Nodes {
		b.ready("plain-" + n.Name)
		b.ranBy(n, "plain-"+n.Name)
	}
	b.kubectl("apply", "-f", manifests+"/uninstall.yaml")
	for _, n := range b.Nodes {
		b.kubectl("delete", "pod", "plain-"+n.Name)
	}
	b.kubectl("-n", namespace, "wait", "--for=condition=complete", "--timeout=4m", "job/lifecycle-shim-uninstall")
	b.kubectl("delete", "-f", manifests+"/uninstall.yaml")
	if _, err := b.Delete(b.Context(), all); err != nil {
		b.Fatal(err)
	}
	b.wantFiles(before)
	b.wantNothingInCluster()
}
