package installer

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

const (
	deployDir = "../../../deploy/kubernetes"
	namespace = "lifecycle-shim"
	account   = "lifecycle-shim-installer"
	// limit bounds every wait. It is long, because it is only reached by a failure.
	limit = 2 * time.Minute
	taint = "lifecycle-shim.io/starting"
	ready = "lifecycle-shim.io/ready"
)

func binDir() string {
	dir, err := filepath.Abs("../../../bin")
	if err != nil {
		panic(err) // no working directory
	}
	return dir
}

// bench is an API server without controllers, and nodes that the test plays.
type bench struct {
	*testing.T
	*cluster.API
	trace string // file: which stand-in began and ended what
	nodes map[string]*node
}

// node has a process in namespaces of its own, which stands for its first one, and an installer.
type node struct {
	b         *bench
	name, dir string
	first     harness.Program
	installer harness.Program
	address   string // of the probes
}

// start an API server that asks RBAC, with the installer's objects and so many nodes.
func start(t *testing.T, nodes int) *bench {
	t.Helper()
	dir, err := cluster.MakeDir()
	if err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 3)
	api, err := cluster.StartAPIAt(t.Context(), binDir(), dir, cluster.Place{
		Address: "127.0.0.1", Port: ports[0], EtcdPort: ports[1], PeerPort: ports[2],
		Flags: []string{
			"--authorization-mode=RBAC", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.214.0.0/24", "--allow-privileged=true",
			"--disable-admission-plugins=ServiceAccount", // no controller makes those of each namespace
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{T: t, API: api, trace: filepath.Join(t.TempDir(), "trace"), nodes: map[string]*node{}}
	b.kubectl("apply", "-k", filepath.Join(deployDir, "installer"))
	b.apply(b.policy())
	b.kubectl("apply", "-f", filepath.Join(deployDir, "uninstall.yaml"))
	for n := range nodes {
		b.addNode(fmt.Sprintf("n%d", n+1))
	}
	return b
}

// policy is the chart's, as it is for a startup taint.
func (b *bench) policy() string {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(deployDir, "installer-policy.yaml"))
	if err != nil {
		b.Fatal(err)
	}
	const without = "expression: variables.taints == variables.oldTaints\n"
	with := fmt.Sprintf("expression: variables.taints == variables.oldTaints || variables.taints == variables.oldTaints.filter(t, t.key != '%s')\n", taint)
	if !strings.Contains(string(text), without) {
		b.Fatalf("installer-policy.yaml does not have %q", without)
	}
	return strings.Replace(string(text), without, with, 1)
}

func freePorts(t *testing.T, count int) []int {
	t.Helper()
	var ports []int
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() // after the last: they differ
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func (b *bench) kubectl(args ...string) string {
	b.Helper()
	out, err := b.Kubectl(b.Context(), args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

func (b *bench) apply(manifest string) {
	b.Helper()
	if err := b.Apply(b.Context(), manifest); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) poll(what string, done func() bool) {
	b.Helper()
	if err := harness.Poll(b.Context(), limit, what, func() (bool, error) { return done(), nil }); err != nil {
		logs := ""
		for _, n := range b.nodes {
			logs += fmt.Sprintf("\n%s:\n%s", n.name, n.installer.Log())
		}
		b.Fatalf("%v\ntrace:\n%s%s", err, b.traced(), logs)
	}
}

// addNode makes a Node, and the pod that its installer's token is of.
func (b *bench) addNode(name string) {
	b.Helper()
	n := &node{b: b, name: name, dir: filepath.Join(b.TempDir(), name)}
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		b.Fatal(err)
	}
	n.first = harness.Program{
		Name: name, Args: []string{"/usr/bin/sleep", "infinity"}, LogFile: filepath.Join(n.dir, "first.log"),
		Unshare: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := n.first.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := n.first.Stop(syscall.SIGKILL); err != nil {
			b.Error(err)
		}
	})
	b.apply(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Node", "metadata": {"name": %q, "labels": {"mine": "1"}, "annotations": {"mine": "2"}},
		"spec": {"taints": [{"key": %q, "effect": "NoSchedule"}, {"key": "other", "value": "v", "effect": "NoSchedule"}]}}`, name, taint))
	b.kubectl("patch", "node", name, "--subresource=status", "-p", `{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}`)
	b.apply(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": %q},
		"spec": {"nodeName": %q, "serviceAccountName": %q, "containers": [{"name": "c", "image": "i"}]}}`, "installer-"+name, namespace, name, account))
	b.nodes[name] = n
	n.write("lifecyclectl", fmt.Sprintf(standIn, n.dir, name, b.trace), 0o755)
}

// standIn answers as lifecyclectl does. Files in its directory say what happens: fail has an installation's error; hold is a FIFO that
// an installation waits for.
const standIn = `#!/bin/sh
dir='%s' name='%s' trace='%s'
verb=$2
[ "$verb" = status ] || echo "$verb $name begin" >>"$trace"
code=0
case $verb in
status)
	if [ -e "$dir/installed" ]; then echo '{"installed": true, "current": true}'; else echo '{"installed": false, "current": false, "reason": "absent"}'; code=1; fi
	;;
install)
	readlink /proc/self/ns/mnt /proc/self/ns/net /proc/self/ns/uts /proc/self/ns/ipc >"$dir/namespaces"
	[ ! -e "$dir/hold" ] || { echo held >"$dir/held"; read line <"$dir/hold"; }
	if [ -e "$dir/fail" ]; then cat "$dir/fail"; code=1; else echo yes >"$dir/installed"; echo '{"restart": "done", "changed": true}'; fi
	;;
check) echo '{"ok": true, "findings": [], "selfTest": {"ok": true}}' ;;
uninstall) rm -f "$dir/installed"; echo '{"restart": "not needed"}' ;;
esac
[ "$verb" = status ] || echo "$verb $name end" >>"$trace"
[ $code = 0 ] || echo "lifecyclectl: failed" >&2
exit $code
`

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) write(name, text string, mode os.FileMode) {
	n.b.Helper()
	if err := os.WriteFile(n.path(name), []byte(text), mode); err != nil {
		n.b.Fatal(err)
	}
}

func (n *node) remove(name string) {
	n.b.Helper()
	if err := os.Remove(n.path(name)); err != nil {
		n.b.Fatal(err)
	}
}

func (n *node) exists(name string) bool {
	_, err := os.Stat(n.path(name))
	return err == nil
}

// kubeconfig with a token.
func (b *bench) kubeconfig(file, token string) {
	b.Helper()
	text, err := os.ReadFile(b.Kubeconfig)
	if err != nil {
		b.Fatal(err)
	}
	text = regexp.MustCompile(`token: "[^"]*"`).ReplaceAll(text, []byte("token: "+strconv.Quote(strings.TrimSpace(token))))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		b.Fatal(err)
	}
}

// run starts the installer with its pod's token.
func (n *node) run(flags ...string) {
	n.b.Helper()
	token := n.b.kubectl("create", "token", account, "-n", namespace, "--bound-object-kind=Pod", "--bound-object-name=installer-"+n.name)
	n.b.kubeconfig(n.path("kubeconfig"), token)
	n.address = fmt.Sprintf("127.0.0.1:%d", freePorts(n.b.T, 1)[0])
	n.installer = harness.Program{
		Name: "installer of " + n.name, LogFile: n.path("installer.log"),
		Args: append([]string{
			filepath.Join(binDir(), "lifecycle-installer"), "run", "--node-name=" + n.name, "--namespace=" + namespace, "--kubeconfig=" + n.path("kubeconfig"),
			"--programs=" + n.dir, fmt.Sprintf("--host-pid=%d", n.first.Pid()), "--startup-taint=" + taint, "--listen=" + n.address,
			"--retry=1s", "--turn-duration=6s", "--log-level=debug",
		}, flags...),
	}
	if err := n.installer.Start(); err != nil {
		n.b.Fatal(err)
	}
	n.b.Cleanup(func() { n.stop(syscall.SIGKILL) })
}

func (n *node) stop(signal syscall.Signal) {
	n.b.Helper()
	if err := n.installer.Stop(signal); err != nil {
		n.b.Error(err)
	}
}

// object is the Node.
func (n *node) object() core.Node {
	n.b.Helper()
	var object core.Node
	if err := n.b.Get(n.b.Context(), "/api/v1/nodes/"+n.name, &object); err != nil {
		n.b.Fatal(err)
	}
	return object
}

func (n *node) waitLabel(value string) {
	n.b.Helper()
	n.b.poll(fmt.Sprintf("%s to be %s=%s", n.name, ready, value), func() bool { return n.object().Labels[ready] == value })
}

// events returns the Events of a reason on the Node.
func (n *node) events(reason string) (events []core.Event) {
	n.b.Helper()
	var list core.EventList
	if err := json.Unmarshal([]byte(n.b.kubectl("get", "events", "-n", "default", "-o", "json")), &list); err != nil {
		n.b.Fatal(err)
	}
	for _, event := range list.Items {
		if event.Reason == reason && event.InvolvedObject.Kind == "Node" && event.InvolvedObject.UID == n.object().UID {
			events = append(events, event)
		}
	}
	return events
}

// waitEvent returns the message of an Event of a reason.
func (n *node) waitEvent(reason string) (message string) {
	n.b.Helper()
	n.b.poll(fmt.Sprintf("the Event %s on %s", reason, n.name), func() bool {
		for _, event := range n.events(reason) {
			message = event.Message
		}
		return message != ""
	})
	return message
}

// traced is what the stand-ins did.
func (b *bench) traced() string {
	text, _ := os.ReadFile(b.trace) // not there before the first
	return string(text)
}

// wantOneAtATime: no stand-in has installed or removed between another one's begin and end.
func (b *bench) wantOneAtATime() {
	b.Helper()
	busy := ""
	for line := range strings.Lines(b.traced()) {
		words := strings.Fields(line)
		if busy != "" && words[1] != busy {
			b.Errorf("%s while %s is at work:\n%s", strings.TrimSpace(line), busy, b.traced())
		}
		busy = words[1]
		if words[2] == "end" {
			busy = ""
		}
	}
}
