package installer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/installer/host"
)

// machine answers as lifecyclectl does on a node.
type machine struct {
	mu       sync.Mutex
	status   string
	install  string // answer of install; empty: it is installed
	check    string
	calls    []string // verbs but status
	unlabels *fake.Clientset
	t        *testing.T
}

func (m *machine) Run(_ context.Context, _ string, args ...string) (host.Output, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	verb := args[1]
	if verb != "status" {
		m.calls = append(m.calls, verb)
	}
	switch verb {
	case "status":
		return host.Output{Stdout: []byte(m.status), Code: 1, Complaint: "lifecyclectl: not current"}, nil
	case "install":
		if m.install != "" {
			return host.Output{Stdout: []byte(m.install), Code: 1, Complaint: "lifecyclectl: no"}, nil
		}
		if node := m.node("n1"); node.Labels[DefaultReadyLabel] == ReadyTrue && !slices.Contains(args, "--restart-by=none") {
			m.t.Error("containerd may be restarted while the node takes pods")
		}
		m.status = `{"installed":true,"current":true}`
		return host.Output{Stdout: []byte(`{"restart":"done","changed":true,"later":{"a":1}}`)}, nil
	case "check":
		if m.check != "" {
			return host.Output{Stdout: []byte(m.check), Code: 1, Complaint: "lifecyclectl: this node is not ready"}, nil
		}
		return host.Output{Stdout: []byte(`{"ok":true,"findings":[],"selfTest":{"ok":true}}`)}, nil
	default:
		m.status = `{"installed":false,"current":false,"reason":"it is not installed"}`
		return host.Output{Stdout: []byte(`{"restart":"not needed"}`)}, nil
	}
}

func (m *machine) node(name string) *core.Node {
	node, err := m.unlabels.CoreV1().Nodes().Get(context.Background(), name, meta.GetOptions{})
	if err != nil {
		m.t.Error(err)
	}
	return node
}

func (m *machine) did() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.calls, " ")
}

func (m *machine) set(change func(*machine)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

// rig is an installer on node n1, beside n2.
type rig struct {
	*testing.T
	*machine
	server    *fake.Clientset
	events    *record.FakeRecorder
	installer *Installer
	cancel    context.CancelFunc
	ended     chan struct{}
}

const absent = `{"installed":false,"current":false,"reason":"it is not installed"}`

func newRig(t *testing.T, objects ...runtime.Object) *rig {
	objects = append(objects,
		&core.Node{ObjectMeta: meta.ObjectMeta{Name: "n1", UID: "u1"}, Spec: core.NodeSpec{Taints: []core.Taint{{Key: "start", Effect: "NoSchedule"}, {Key: "other", Effect: "NoSchedule"}}}},
		&core.Node{ObjectMeta: meta.ObjectMeta{Name: "n2", UID: "u2"}},
		&appsv1.DaemonSet{ObjectMeta: meta.ObjectMeta{Name: DefaultDaemonSet, Namespace: "ours"}, Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 2}})
	server := fake.NewSimpleClientset(objects...) // NewClientset takes seconds for each change
	r := &rig{
		T: t, server: server, events: record.NewFakeRecorder(100), ended: make(chan struct{}),
		machine: &machine{status: absent, unlabels: server, t: t},
	}
	config := Config{
		Node: "n1", Namespace: "ours", DaemonSet: DefaultDaemonSet, RuntimeClass: "lifecycle", ReadyLabel: DefaultReadyLabel, StartupTaint: "start",
		MaxUnavailable: 1, StopAfterFailures: 1, TurnDuration: time.Minute, Retry: 10 * time.Second, Version: "1.2.3",
		RestartBy: "systemd", Programs: "/bin", HostPID: 1,
	}
	if err := config.Check(); err != nil {
		t.Fatal(err)
	}
	r.installer = newInstaller(config, clients{server.CoreV1(), server.AppsV1(), server.CoordinationV1()}, r.machine, r.events, NewHealth())
	return r
}

func (r *rig) start() {
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(r.Context())
	go func() {
		defer close(r.ended)
		r.installer.Run(ctx)
	}()
}

func (r *rig) stop() {
	r.Helper()
	begun := time.Now()
	r.cancel()
	<-r.ended
	if took := time.Since(begun); took > 5*time.Second {
		r.Errorf("it ended after %s", took)
	}
}

// later lets time pass.
func (r *rig) later(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's clock
	synctest.Wait()
}

func (r *rig) mark(value string) {
	set, err := r.server.AppsV1().DaemonSets("ours").Get(r.Context(), DefaultDaemonSet, meta.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	set.Annotations = map[string]string{UninstallAnnotation: value}
	if _, err := r.server.AppsV1().DaemonSets("ours").Update(r.Context(), set, meta.UpdateOptions{}); err != nil {
		r.Fatal(err)
	}
}

// event returns the next Event, and fails if there is none.
func (r *rig) event() string {
	r.Helper()
	select {
	case event := <-r.events.Events:
		return event
	default:
		r.Fatal("no Event")
		return ""
	}
}

func (r *rig) wantNode(ready, installed string, failed bool) *core.Node {
	r.Helper()
	node := r.node("n1")
	_, hasError := node.Annotations[ErrorAnnotation]
	if node.Labels[DefaultReadyLabel] != ready || node.Annotations[InstalledAnnotation] != installed || hasError != failed {
		r.Errorf("labels %v, annotations %v; want ready %q, installed %q, failed %v", node.Labels, node.Annotations, ready, installed, failed)
	}
	return node
}

func (r *rig) holder() string {
	lease, err := r.server.CoordinationV1().Leases("ours").Get(context.Background(), "lifecycle-shim-installer-0", meta.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

func inBubble(t *testing.T, test func(*rig), objects ...runtime.Object) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, objects...)
		test(r)
		r.stop()
		if who := r.holder(); who == "n1" {
			t.Error("the turn is not given back")
		}
	})
}

func TestInstallsOnce(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start()
		r.later(10 * time.Second)
		node := r.wantNode(ReadyTrue, "1.2.3", false)
		if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != "other" {
			r.Errorf("taints %v", node.Spec.Taints)
		}
		if event := r.event(); !strings.HasPrefix(event, "Normal "+ReasonReady) {
			r.Errorf("event %q", event)
		}
		r.later(time.Hour)
		if did := r.did(); did != "install check" {
			r.Errorf("did %q", did)
		}
		if who := r.holder(); who != "" {
			r.Errorf("%q has the turn of a node that rests", who)
		}
	})
}

// TestFailure: the annotation and the Event have cause and cure, in bounded size; the turn is given back; tries are spaced, and the
// first one that succeeds removes the annotation.
func TestFailure(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.machine.install = fmt.Sprintf(`{"error":{"step":"configuration","message":"imports %s nothing\nat all","cure":"add conf.d"}}`, strings.Repeat("x", 1<<16))
		r.start()
		r.later(5 * time.Second)
		node := r.wantNode(ReadyFalse, Unchecked, true)
		text := node.Annotations[ErrorAnnotation]
		if len(text) > maxNote || !strings.HasPrefix(text, "configuration: imports") || !strings.HasSuffix(text, "nothing at all. To do: add conf.d.") {
			r.Errorf("annotation of %d bytes: %s", len(text), text)
		}
		if event := r.event(); event != "Warning "+ReasonFailed+" "+text {
			r.Errorf("event %q", event)
		}
		if who := r.holder(); who != "" {
			r.Errorf("%q has the turn after its failure", who)
		}
		r.later(time.Hour)
		if tries := strings.Count(r.did(), "install"); tries < 8 || tries > 25 {
			r.Errorf("%d tries in an hour", tries)
		}
		r.set(func(m *machine) { m.install = "" })
		r.later(10 * time.Minute)
		r.wantNode(ReadyTrue, "1.2.3", false)
	})
}

// TestCheckFails: a node that does not pass its check gets no label, whatever install has said.
func TestCheckFails(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.machine.check = `{"ok":false,"findings":[{"level":"note","message":"n"},{"level":"fault","message":"no runc","cure":"install runc"}],"selfTest":{"ok":false,"message":"cannot run"}}`
		r.start()
		r.later(5 * time.Second)
		node := r.wantNode(ReadyFalse, Unchecked, true)
		if text := node.Annotations[ErrorAnnotation]; text != "check: no runc. To do: install runc." {
			r.Errorf("annotation %q", text)
		}
	})
}

// TestOthersFailed: with a failed node, this one does not begin; it begins when that one is well again.
func TestOthersFailed(t *testing.T) {
	failed := &core.Node{ObjectMeta: meta.ObjectMeta{Name: "bad", UID: "u3", Labels: map[string]string{DefaultReadyLabel: ReadyFalse}}}
	inBubble(t, func(r *rig) {
		r.start()
		r.later(time.Hour)
		if did := r.did(); did != "" {
			r.Errorf("did %q", did)
		}
		if event := r.event(); !strings.HasPrefix(event, "Warning "+ReasonStopped) || !strings.Contains(event, "failed on bad (") {
			r.Errorf("event %q", event)
		}
		if err := r.server.CoreV1().Nodes().Delete(r.Context(), "bad", meta.DeleteOptions{}); err != nil {
			r.Fatal(err)
		}
		r.later(10 * time.Minute)
		r.wantNode(ReadyTrue, "1.2.3", false)
	}, failed)
}

// TestOthersFailedAndGoOn: with 0 it begins all the same.
func TestOthersFailedAndGoOn(t *testing.T) {
	failed := &core.Node{ObjectMeta: meta.ObjectMeta{Name: "bad", UID: "u3", Labels: map[string]string{DefaultReadyLabel: ReadyFalse}}}
	inBubble(t, func(r *rig) {
		r.installer.config.StopAfterFailures = 0
		r.start()
		r.later(10 * time.Second)
		r.wantNode(ReadyTrue, "1.2.3", false)
	}, failed)
}

// TestUpgradeKeepsLabel: another build replaces the programs, and the node takes pods all the time.
func TestUpgradeKeepsLabel(t *testing.T) {
	inBubble(t, func(r *rig) {
		var ready atomic.Bool
		r.server.PrependReactor("patch", "nodes", func(action k8stesting.Action) (bool, runtime.Object, error) {
			patch := string(action.(k8stesting.PatchAction).GetPatch())
			if ready.Load() && strings.Contains(patch, `"`+DefaultReadyLabel+`":null`) {
				r.Errorf("the label is taken off: %s", patch)
			}
			return false, nil, nil
		})
		r.start()
		r.later(10 * time.Second)
		ready.Store(true)
		r.set(func(m *machine) { m.status = `{"installed":true,"current":false,"reason":"other build"}` })
		r.later(3 * time.Minute)
		if did := r.did(); did != "install check install check" {
			r.Errorf("did %q", did)
		}
		r.wantNode(ReadyTrue, "1.2.3", false)
	})
}

// TestServerAway: without the API server nothing is done on the node; when it is back, the installation goes on.
func TestServerAway(t *testing.T) {
	inBubble(t, func(r *rig) {
		var away atomic.Bool
		away.Store(true)
		r.server.PrependReactor("*", "*", func(k8stesting.Action) (bool, runtime.Object, error) {
			if away.Load() {
				return true, nil, errors.New("connection refused")
			}
			return false, nil, nil
		})
		r.start()
		r.later(time.Hour)
		if did := r.did(); did != "" {
			r.Errorf("did %q", did)
		}
		away.Store(false)
		r.later(time.Minute)
		r.wantNode(ReadyTrue, "1.2.3", false)
	})
}

func TestUninstall(t *testing.T) {
	class := "lifecycle"
	var pods []runtime.Object
	for n := range 7 {
		pods = append(pods, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: "apps", Name: fmt.Sprintf("p%d", n)}, Spec: core.PodSpec{NodeName: "n1", RuntimeClassName: &class}})
	}
	pods = append(pods, &core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: "apps", Name: "other"}, Spec: core.PodSpec{NodeName: "n1"}})
	inBubble(t, func(r *rig) {
		r.start()
		r.later(10 * time.Second)
		_ = r.event()
		r.mark("true")
		r.later(20 * time.Minute)
		r.wantNode("", "1.2.3", false)
		if event := r.event(); !strings.Contains(event, "7 pods of RuntimeClass lifecycle") || !strings.Contains(event, "apps/p4 and 2 more") {
			r.Errorf("event %q", event)
		}
		for n := range 7 {
			if err := r.server.CoreV1().Pods("apps").Delete(r.Context(), fmt.Sprintf("p%d", n), meta.DeleteOptions{}); err != nil {
				r.Fatal(err)
			}
		}
		r.later(time.Minute)
		node := r.wantNode("", "", false)
		if _, exists := node.Labels[DefaultReadyLabel]; exists || len(node.Annotations) > 0 {
			r.Errorf("left: %v %v", node.Labels, node.Annotations)
		}
		if did := r.did(); did != "install check uninstall" {
			r.Errorf("did %q", did)
		}
		r.mark("") // taken back
		r.later(time.Minute)
		r.wantNode(ReadyTrue, "1.2.3", false)
	}, pods...)
}
