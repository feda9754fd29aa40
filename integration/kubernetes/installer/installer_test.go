package installer

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// TestThreeNodes installs on three nodes, one at a time, and removes the shim from them, as `helm install` and `helm uninstall` would.
func TestThreeNodes(t *testing.T) {
	b := start(t, 3)
	before := map[string]string{}
	for name, n := range b.nodes {
		before[name] = metadataOf(n)
		n.run()
	}
	for _, n := range b.nodes {
		n.waitLabel("true")
		node := n.object()
		if _, is := node.Annotations["lifecycle-shim.io/installed"]; !is || node.Annotations["lifecycle-shim.io/install-error"] != "" {
			t.Errorf("%s: annotations %v", n.name, node.Annotations)
		}
		keys := ""
		for _, taint := range node.Spec.Taints {
			keys += taint.Key + "=" + taint.Value + " "
		}
		if strings.Contains(keys, taint) || !strings.Contains(keys, "other=v ") {
			t.Errorf("%s: taints %s", n.name, keys)
		}
		if message := n.waitEvent("LifecycleShimReady"); !strings.Contains(message, "is installed") {
			t.Errorf("%s: Event %q", n.name, message)
		}
		n.wantNamespaces()
		n.waitProbe("/readyz", http.StatusOK)
		n.waitProbe("/healthz", http.StatusOK)
	}
	b.wantOneAtATime()
	b.waitFree()
	b.remove(before)
}

// metadataOf a Node, without what each change changes; and its taints without the startup taint.
func metadataOf(n *node) string {
	node := n.object()
	var taints []string
	for _, t := range node.Spec.Taints {
		if t.Key != taint {
			taints = append(taints, t.Key+t.Value+string(t.Effect))
		}
	}
	text, err := json.Marshal([]any{node.Labels, withoutKubectl(node.Annotations), taints})
	if err != nil {
		n.b.Fatal(err)
	}
	return string(text)
}

func withoutKubectl(annotations map[string]string) map[string]string {
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	return annotations
}

// wantNamespaces: the command ran in the namespaces of the node's first process.
func (n *node) wantNamespaces() {
	n.b.Helper()
	got, err := os.ReadFile(n.path("namespaces"))
	if err != nil {
		n.b.Fatal(err)
	}
	want := ""
	for _, kind := range []string{"mnt", "net", "uts", "ipc"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", n.first.Pid(), kind))
		if err != nil {
			n.b.Fatal(err)
		}
		want += link + "\n"
	}
	if string(got) != want {
		n.b.Errorf("%s: the command ran in\n%swant\n%s", n.name, got, want)
	}
}

func (n *node) waitProbe(path string, code int) {
	n.b.Helper()
	n.b.poll(fmt.Sprintf("%s of %s to be %d", path, n.name, code), func() bool {
		response, err := http.Get("http://" + n.address + path)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode == code
	})
}

// waitFree until nobody has the turn.
func (b *bench) waitFree() {
	b.Helper()
	b.poll("a free turn", func() bool {
		var leases coordination.LeaseList
		if err := b.Get(b.Context(), "/apis/coordination.k8s.io/v1/namespaces/"+namespace+"/leases", &leases); err != nil {
			b.Fatal(err)
		}
		return len(leases.Items) == 1 && leases.Items[0].Name == "lifecycle-shim-installer-0" && *leases.Items[0].Spec.HolderIdentity == ""
	})
}

// remove waits for pods of the class, names them, and leaves the Nodes as they were.
func (b *bench) remove(before map[string]string) {
	b.Helper()
	for i := range 7 {
		b.apply(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user-%d"}, "spec": {"nodeName": "n2", "runtimeClassName": "lifecycle",
			"nodeSelector": {"kubernetes.io/os": "linux", %q: "true"}, "overhead": {"memory": "16Mi"}, "containers": [{"name": "c", "image": "i"}]}}`, i, ready))
	}
	config := filepath.Join(b.TempDir(), "kubeconfig")
	b.kubeconfig(config, b.kubectl("create", "token", "lifecycle-shim-uninstall", "-n", namespace))
	job := harness.Program{
		Name: "uninstall", LogFile: filepath.Join(b.TempDir(), "log"),
		Args: []string{filepath.Join(binDir(), "lifecycle-installer"), "uninstall", "--namespace=" + namespace, "--kubeconfig=" + config, "--timeout=2m"},
	}
	if err := job.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = job.Stop(syscall.SIGKILL) }()
	const text = "7 pods of RuntimeClass lifecycle: default/user-0, default/user-1, default/user-2, default/user-3, default/user-4 and 2 more"
	b.poll("the job to name the pods", func() bool { return strings.Contains(job.Log(), "n2: "+text) })
	if message := b.nodes["n2"].waitEvent("LifecycleShimUninstallWaits"); !strings.Contains(message, "user-4 and 2 more") {
		b.Errorf("Event %q", message)
	}
	b.nodes["n1"].waitEvent("LifecycleShimUninstalled") // it waits for no pod
	if !b.nodes["n2"].exists("installed") || b.nodes["n2"].object().Labels[ready] != "" || job.Ended() != nil {
		b.Errorf("n2 is not as a node that waits; job: %s", job.Log())
	}
	b.kubectl("delete", "pods", "-l", "!app", "--grace-period=0", "--force")
	b.poll("the job's end", func() bool { return job.Ended() != nil })
	if !strings.Contains(job.Log(), "is removed from every node") {
		b.Errorf("the job says\n%s", job.Log())
	}
	for name, n := range b.nodes {
		if after := metadataOf(n); after != before[name] || n.exists("installed") {
			b.Errorf("%s: %s, and was %s", name, after, before[name])
		}
		n.waitProbe("/readyz", http.StatusServiceUnavailable)
		n.stop(syscall.SIGTERM)
	}
	b.wantOneAtATime()
}

// TestStopsAtAFailure: with one node failed no other begins, and all do when it is well; with --stop-after-failures=0 they go on.
func TestStopsAtAFailure(t *testing.T) {
	b := start(t, 3)
	n1, n2, n3 := b.nodes["n1"], b.nodes["n2"], b.nodes["n3"]
	n1.write("fail", `{"error": {"step": "configuration", "message": "the configuration imports nothing", "cure": "add conf.d to its imports"}}`, 0o644)
	n1.run()
	n1.waitLabel("false")
	const text = "configuration: the configuration imports nothing. To do: add conf.d to its imports."
	if got := n1.object().Annotations["lifecycle-shim.io/install-error"]; got != text {
		t.Errorf("annotation %q", got)
	}
	if message := n1.waitEvent("LifecycleShimInstallFailed"); message != text {
		t.Errorf("Event %q", message)
	}
	n2.run()
	if message := n2.waitEvent("LifecycleShimInstallStopped"); !strings.Contains(message, "failed on n1 (stop after 1)") {
		t.Errorf("Event %q", message)
	}
	n3.run("--stop-after-failures=0")
	n3.waitLabel("true")
	if strings.Contains(b.traced(), "install n2") {
		t.Errorf("n2 began:\n%s", b.traced())
	}
	n1.waitProbe("/readyz", http.StatusServiceUnavailable)
	n1.remove("fail")
	n1.waitLabel("true")
	n2.waitLabel("true")
	if _, is := n1.object().Annotations["lifecycle-shim.io/install-error"]; is {
		t.Error("the annotation stays on a node that is ready")
	}
	b.wantOneAtATime()
	b.waitFree()
}

// TestKilled: the turn of an installer that was killed in the middle is taken over, and SIGTERM in the middle gives it back at once.
func TestKilled(t *testing.T) {
	b := start(t, 2)
	n1, n2 := b.nodes["n1"], b.nodes["n2"]
	if err := syscall.Mkfifo(n1.path("hold"), 0o600); err != nil {
		t.Fatal(err)
	}
	n1.run()
	b.poll("the installation on n1", func() bool { return n1.exists("held") })
	n2.run()
	n1.stop(syscall.SIGKILL)
	n2.waitLabel("true") // after the turn's duration
	if got := n1.object().Labels[ready]; got != "" {
		t.Errorf("n1 has the label %q", got)
	}
	n1.goOn() // what was started continues without its installer
	b.poll("the end of what n1's installer began", func() bool { return n1.exists("installed") })

	n1.remove("installed")
	n1.remove("held")
	n1.run()
	b.poll("the second installation on n1", func() bool { return n1.exists("held") })
	begun := time.Now()
	n1.stop(syscall.SIGTERM)
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("SIGTERM took %s", took)
	}
	b.waitFree()
	n1.remove("hold")
	n1.run()
	n1.waitLabel("true")
}

// goOn lets a held installation continue.
func (n *node) goOn() {
	n.b.Helper()
	if err := os.WriteFile(n.path("hold"), []byte("\n"), 0); err != nil {
		n.b.Fatal(err)
	}
}

// TestForeignNode: an installer's token changes no node but its own.
func TestForeignNode(t *testing.T) {
	b := start(t, 2)
	n1, n2 := b.nodes["n1"], b.nodes["n2"]
	n1.run("--node-name=n2") // the last one counts
	b.poll("a refusal", func() bool { return strings.Contains(n1.installer.Log(), "may only patch the node that it runs on") })
	if strings.Contains(b.traced(), "install") {
		t.Errorf("it changed the node all the same:\n%s", b.traced())
	}
	if labels := n2.object().Labels; labels[ready] != "" {
		t.Errorf("labels %v", labels)
	}
}
