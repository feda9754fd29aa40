package chart

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const nodes = `apiVersion: v1
kind: Node
metadata: {name: one, labels: {pool: apps}, annotations: {owner: platform}, finalizers: [example.org/keep]}
spec:
  podCIDR: 10.1.0.0/24
  taints:
  - {key: lifecycle-shim.io/starting, effect: NoSchedule}
  - {key: lifecycle-shim.io/starting, effect: NoExecute}
  - {key: other, effect: NoSchedule}
---
apiVersion: v1
kind: Node
metadata: {name: two}
`

// installerPod is one of the DaemonSet's, which a token is bound to.
const installerPod = `apiVersion: v1
kind: Pod
metadata: {name: installer, namespace: lifecycle-shim}
spec:
  nodeName: one
  serviceAccountName: lifecycle-shim-installer
  automountServiceAccountToken: false
  containers: [{name: installer, image: installer}]
`

// installer is a kubectl with the token of an installer's pod on node "one".
func (b *bench) installer() func(args ...string) error {
	b.Helper()
	if err := b.Apply(b.Context(), nodes+"---\n"+installerPod); err != nil {
		b.Fatal(err)
	}
	return b.with(strings.TrimSpace(b.kubectl("create", "token", "-n", namespace, "lifecycle-shim-installer", "--bound-object-kind=Pod", "--bound-object-name=installer")))
}

// with is a kubectl that has that token.
func (b *bench) with(token string) func(args ...string) error {
	b.Helper()
	text, err := os.ReadFile(b.Kubeconfig)
	if err != nil {
		b.Fatal(err)
	}
	before, _, found := strings.Cut(string(text), "users:")
	if !found {
		b.Fatalf("the kubeconfig has another form: %s", text)
	}
	kubeconfig := b.file(before + fmt.Sprintf("users: [{name: admin, user: {token: %q}}]\n", token))
	return func(args ...string) error {
		_, err := b.Kubectl(b.Context(), append([]string{"--kubeconfig", kubeconfig}, args...)...)
		return err
	}
}

// TestInstallerOnNodes: the installer's account changes its own node, there only what is its own, and nothing else.
func TestInstallerOnNodes(t *testing.T) {
	t.Run("newest", func(t *testing.T) { start(t).installerOnNodes() })
	t.Run("oldest", func(t *testing.T) { start(t, "--emulated-version="+emulated).installerOnNodes() })
}

func (b *bench) installerOnNodes() {
	b.Helper()
	b.helm("helm3", "install", release, chartDir, "--create-namespace", "--set", "installer.startupTaint=lifecycle-shim.io/starting")
	kubectl := b.installer()
	patch := func(node, patch string) error { return kubectl("patch", "node", node, "--dry-run=server", "-p", patch) }
	const ready = `{"metadata":{"labels":{"lifecycle-shim.io/ready":"true"}}}`
	err := harness.Poll(b.Context(), limit, "the policy", func() (bool, error) { return patch("two", ready) != nil, nil })
	if err != nil {
		b.Fatal(err)
	}
	for _, allowed := range []string{
		ready,
		`{"metadata":{"annotations":{"lifecycle-shim.io/installed":"0.1.0","lifecycle-shim.io/install-error":"containerd: no"}}}`,
		`{"metadata":{"labels":{"lifecycle-shim.io/ready":null}}}`,
		`{"metadata":{"labels":{"lifecycle-shim.io/ready":"true"}},"spec":{"taints":[` + // which a patch replaces, and to which the API server has added one
			`{"key":"other","effect":"NoSchedule"},{"key":"node.kubernetes.io/not-ready","effect":"NoSchedule"}]}}`,
		`{}`,
	} {
		if err := patch("one", allowed); err != nil {
			b.Errorf("%s: %v", allowed, err)
		}
	}
	for refused, want := range map[string]string{
		`{"metadata":{"labels":{"pool":"system"}}}`:                                                "may only change the label lifecycle-shim.io/ready",
		`{"metadata":{"labels":{"pool":null}}}`:                                                    "may only change the label lifecycle-shim.io/ready",
		`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`:                     "may only change the label lifecycle-shim.io/ready",
		`{"metadata":{"annotations":{"owner":"me"}}}`:                                              "may only change the annotations",
		`{"metadata":{"annotations":{"owner":null}}}`:                                              "may only change the annotations",
		`{"metadata":{"annotations":{"lifecycle-shim.io/other":"a"}}}`:                             "may only change the annotations",
		`{"metadata":{"finalizers":null}}`:                                                         "may only change labels, annotations and taints",
		`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"a","uid":"b"}]}}`: "may only change labels, annotations and taints",
		`{"spec":{"unschedulable":true}}`:                                                          "may only change labels, annotations and taints",
		`{"spec":{"providerID":"aws:///a"}}`:                                                       "may only change labels, annotations and taints",
		`{"spec":{"taints":null}}`:                                                                 "may only remove the taint lifecycle-shim.io/starting",
		`{"spec":{"taints":[{"key":"new","effect":"NoSchedule"}]}}`:                                "may only remove the taint lifecycle-shim.io/starting",
		`{"spec":{"taints":[{"key":"other","effect":"NoExecute"}]}}`:                               "may only remove the taint lifecycle-shim.io/starting",
	} {
		if err := patch("one", refused); err == nil || !strings.Contains(err.Error(), want) {
			b.Errorf("%s: %v", refused, err)
		}
	}
	if err := patch("two", ready); err == nil || !strings.Contains(err.Error(), `may only patch the node that it runs on, which is "one"`) {
		b.Errorf("another node: %v", err)
	}
	// A token without a pod says no node.
	unbound := b.with(strings.TrimSpace(b.kubectl("create", "token", "-n", namespace, "lifecycle-shim-installer")))
	if err := unbound("patch", "node", "one", "--dry-run=server", "-p", ready); err == nil || !strings.Contains(err.Error(), `which is "" according to its token`) {
		b.Errorf("a token without a node: %v", err)
	}
	for _, args := range [][]string{
		{"delete", "node", "one", "--dry-run=server"},
		{"create", "--dry-run=server", "-f", b.file("apiVersion: v1\nkind: Node\nmetadata: {name: three}\n")},
		{"patch", "node", "one", "--subresource=status", "--dry-run=server", "-p", `{"status":{"phase":"Running"}}`},
		{"get", "secrets", "-n", namespace},
		{"get", "configmaps", "-n", "kube-system"},
		{"delete", "pod", "-n", namespace, "installer", "--dry-run=server"},
		{"patch", "daemonset", "-n", namespace, "lifecycle-shim-installer", "--dry-run=server", "-p", "{}"},
	} {
		if err := kubectl(args...); err == nil || !strings.Contains(err.Error(), "forbidden") {
			b.Errorf("%q: %v", args, err)
		}
	}
	// Others patch nodes as before.
	b.kubectl("patch", "node", "two", "-p", `{"spec":{"unschedulable":true}}`)
}
