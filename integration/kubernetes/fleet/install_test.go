package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	core "k8s.io/api/core/v1"
)

const (
	readyLabel = "lifecycle-shim.io/ready"
	// promise is the time in which a cluster has the shim.
	promise = 2 * time.Minute
)

// terminate: two of the nodes have a supervisor, which starts containerd again; systemd does so too.
var onAnyNode = []string{"--set", "installer.restartBy=terminate"}

// helm install alone brings the page's example to Ready on any node, and helm uninstall leaves each node as it was.
func TestHelmInstall(t *testing.T) {
	b := on(t)
	before := b.allFiles()
	begin := time.Now()
	b.install("4", onAnyNode...)
	b.admits()
	for _, n := range b.Nodes {
		b.apply(example("demo-"+n.Name, n.Name))
	}
	for _, n := range b.Nodes {
		b.ready("demo-" + n.Name)
	}
	took := time.Since(begin)
	b.Logf("from helm install to the example's Ready on all %d nodes: %v", len(b.Nodes), took.Round(100*time.Millisecond))
	if took > promise {
		b.Errorf("it took %v, more than %v", took, promise)
	}
	for _, n := range b.Nodes {
		b.ranBy(n, "demo-"+n.Name)
	}
	b.mustHelm("4", "test", release)
	b.uninstallWaits("demo-node2", "demo-node1", "demo-node3")
	b.wantFiles(before)
	b.wantNothingInCluster()
}

// The same with Helm 3, and with systemd, on the node that has it: no other gets the label, and with it a pod of the class.
func TestHelm3InstallWithSystemd(t *testing.T) {
	b := on(t)
	before := b.allFiles()
	b.install("3", "--set", "installer.nodeSelector.kubernetes\\.io/hostname=node1")
	b.admits()
	b.apply(example("demo", ""))
	b.ready("demo")
	b.ranBy(b.Nodes[0], "demo")
	for name, difference := range b.allFiles() {
		if changes := b.differences(before[name], difference); (name == "node1") != (len(changes) > 0) {
			b.Errorf("%s: changes %v", name, changes)
		}
	}
	b.kubectl("delete", "pod", "demo")
	b.uninstall("3")
	b.wantFiles(before)
	b.wantNothingInCluster()
}

// install returns when helm does, which waits for nothing.
func (b *bench) install(major string, values ...string) {
	b.Helper()
	b.pushProduct()
	args := append([]string{"install", release, chart, "--create-namespace"}, values...)
	b.mustHelm(major, args...)
	b.Cleanup(func() {
		if b.Failed() {
			b.explain()
			b.abandon()
		}
	})
}

func (b *bench) uninstall(major string) {
	b.Helper()
	b.mustHelm(major, "uninstall", release, "--timeout", "5m")
}

// version is the one that the chart installs.
func (b *bench) version() string {
	b.Helper()
	archives, err := filepath.Glob(filepath.Join(binDir(), "image", "lifecycle-shim-*.oci.tar"))
	if err != nil || len(archives) != 1 {
		b.Fatalf("bin/image has not one archive of the image but %v (%v): run `make test-image`", archives, err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(archives[0]), "lifecycle-shim-"), ".oci.tar")
}

// product is the index of the image that `make test-image` has made.
func (b *bench) product() v1.ImageIndex {
	b.Helper()
	unpacked := b.TempDir()
	if err := untar(filepath.Join(binDir(), "image", "lifecycle-shim-"+b.version()+".oci.tar"), unpacked); err != nil {
		b.Fatal(err)
	}
	outer, err := layout.ImageIndexFromPath(unpacked)
	if err != nil {
		b.Fatal(err)
	}
	index, err := productIndex(outer)
	if err != nil {
		b.Fatal(err)
	}
	return index
}

// repository is the product's, without a tag.
const repository = "ghcr.io/lifecycle-shim/lifecycle-shim"

func (b *bench) pushProduct() {
	b.Helper()
	if err := b.Registry.PushIndex(repository+":"+b.version(), b.product()); err != nil {
		b.Fatal(err)
	}
}

// example is the pod of the Kubernetes page, on that node if one is named.
func example(name, node string) string {
	where := ""
	if node != "" {
		where = "  nodeSelector: {kubernetes.io/hostname: " + node + "}\n"
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
spec:
  runtimeClassName: lifecycle
%s  containers:
  - name: lifecycle-demo-container
    image: nginx
    imagePullPolicy: IfNotPresent
    lifecycle:
      postStart:
        exec:
          command: ["/bin/sh", "-c", "echo Hello from the postStart handler > /usr/share/message"]
      preStop:
        exec:
          command: ["/bin/sh","-c","nginx -s quit; while killall -0 nginx; do sleep 1; done"]
`, name, where)
}

// admits waits until the API server moves handlers: it reads a new policy a moment after it exists.
func (b *bench) admits() {
	b.Helper()
	manifest := `{"metadata": {"name": "dry-run"}, "spec": {"runtimeClassName": "lifecycle", "containers": [
  {"name": "app", "image": "nginx", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}]}}`
	b.poll("handlers to be moved", func() bool {
		var pod core.Pod
		err := b.Create(b.Context(), "/api/v1/namespaces/default/pods?dryRun=All", []byte(manifest), &pod)
		return err == nil && pod.Spec.Containers[0].Lifecycle == nil
	})
}

func (b *bench) pod(name string) *core.Pod {
	b.Helper()
	pod := &core.Pod{}
	if err := b.Get(b.Context(), "/api/v1/namespaces/default/pods/"+name, pod); err != nil {
		b.Fatal(err)
	}
	return pod
}

func (b *bench) ready(name string) {
	b.Helper()
	b.poll("pod "+name+" to be Ready", func() bool {
		for _, condition := range b.pod(name).Status.Conditions {
			if condition.Type == core.PodReady {
				return condition.Status == core.ConditionTrue
			}
		}
		return false
	})
}

// ranBy fails if the pod's handlers were not run on the node by our shim.
func (b *bench) ranBy(n *Node, name string) {
	b.Helper()
	pod := b.pod(name)
	if pod.Spec.NodeName != n.Name {
		b.Errorf("pod %s is on %s, not on %s", name, pod.Spec.NodeName, n.Name)
	}
	if pod.Spec.Containers[0].Lifecycle != nil {
		b.Errorf("the handlers of pod %s are still in its spec", name)
	}
	if text := b.kubectl("exec", name, "--", "cat", "/usr/share/message"); text != "Hello from the postStart handler\n" {
		b.Errorf("postStart of pod %s has written %q", name, text)
	}
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	info, err := n.Exec(b.Context(), "ctr", "-n", "k8s.io", "containers", "info", id)
	if err != nil || !strings.Contains(info, `"io.containerd.lifecycle.v2"`) {
		b.Errorf("pod %s does not run under the shim: %v\n%s", name, err, info)
	}
	if status, err := n.Exec(b.Context(), "lifecyclectl", "status", "-n", "k8s.io", "-o", "json", id); err != nil || !strings.Contains(status, "postStart") {
		b.Errorf("the shim of pod %s reports no postStart: %v\n%s", name, err, status)
	}
}

// uninstallWaits starts helm uninstall while there are pods of the class, and deletes them only when it has said that it waits for the first.
func (b *bench) uninstallWaits(pods ...string) {
	b.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := b.helm(b.Context(), "4", "uninstall", release, "--timeout", "5m")
		done <- err
	}()
	b.poll("helm uninstall to name a pod that it waits for", func() bool {
		log, _ := b.Kubectl(b.Context(), "-n", namespace, "logs", "job/lifecycle-shim-uninstall")
		return strings.Contains(log, pods[0])
	})
	select {
	case err := <-done:
		b.Fatalf("helm uninstall ended while there are pods of the class: %v", err)
	default:
	}
	for _, name := range pods {
		b.ready(name) // they are unharmed
	}
	b.kubectl(append([]string{"delete", "pod"}, pods...)...)
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// wantNothingInCluster fails if the cluster still has an object of ours, or a node a mark.
func (b *bench) wantNothingInCluster() {
	b.Helper()
	const kinds = "daemonset,statefulset,deployment,job,serviceaccount,role,rolebinding,configmap,secret,service,lease,poddisruptionbudget"
	out := b.kubectl("get", kinds, "-A", "-o", "name")
	out += b.kubectl("get", "runtimeclass,clusterrole,clusterrolebinding,mutatingadmissionpolicy,mutatingadmissionpolicybinding,"+
		"validatingadmissionpolicy,validatingadmissionpolicybinding,mutatingwebhookconfiguration,validatingwebhookconfiguration", "-o", "name")
	for line := range strings.Lines(out) {
		if strings.Contains(line, "lifecycle") {
			b.Errorf("left in the cluster: %s", strings.TrimSpace(line))
		}
	}
	for _, n := range b.Nodes {
		var node core.Node
		if err := b.Get(b.Context(), "/api/v1/nodes/"+n.Name, &node); err != nil {
			b.Fatal(err)
		}
		text, err := json.Marshal(map[string]any{"labels": node.Labels, "annotations": node.Annotations, "taints": node.Spec.Taints})
		if err != nil || strings.Contains(string(text), "lifecycle-shim") {
			b.Errorf("left on node %s: %s (%v)", n.Name, text, err)
		}
	}
}

// explain shows what a failed test leaves.
func (b *bench) explain() {
	ctx := context.Background()
	for _, args := range [][]string{
		{"get", "nodes", "-L", readyLabel},
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A"},
		{"-n", namespace, "logs", "--prefix", "--tail=40", "-l", "app.kubernetes.io/name=lifecycle-shim"},
	} {
		out, err := b.Kubectl(ctx, args...)
		b.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// abandon the fleet: the next test gets another.
func (b *bench) abandon() {
	shared.Lock()
	defer shared.Unlock()
	if err := shared.Close(); err != nil {
		b.Log(err)
	}
	shared.Fleet = nil
}

// allReady waits until every node has the label.
func (b *bench) allReady() {
	b.Helper()
	b.poll("all nodes to have the shim", func() bool {
		var list core.NodeList
		if err := b.Get(b.Context(), "/api/v1/nodes?labelSelector="+readyLabel+"%3Dtrue", &list); err != nil {
			return false
		}
		return len(list.Items) == len(b.Nodes)
	})
}
