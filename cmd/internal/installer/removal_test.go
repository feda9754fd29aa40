package installer

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
)

// removalOf a cluster with one node that still has the shim.
func removalOf(t *testing.T, ready core.ConditionStatus, objects ...runtime.Object) (*Removal, *fake.Clientset) {
	t.Helper()
	node := meta.ObjectMeta{Name: "n1", Annotations: map[string]string{InstalledAnnotation: "1.2.3"}}
	objects = append(objects, &core.Node{ObjectMeta: node, Status: core.NodeStatus{Conditions: []core.NodeCondition{{Type: core.NodeReady, Status: ready}}}})
	server := fake.NewSimpleClientset(objects...)
	scheme := metadatafake.NewTestScheme()
	if err := meta.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	nodes := metadatafake.NewSimpleMetadataClient(scheme, &meta.PartialObjectMetadata{
		TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: node,
	})
	return &Removal{
		cluster: &cluster{
			core: server.CoreV1(), daemonSets: server.AppsV1().DaemonSets("ours"), daemonSet: DefaultDaemonSet, class: "lifecycle",
			keys: keys{readyLabel: DefaultReadyLabel},
		},
		nodes:   nodes.Resource(core.SchemeGroupVersion.WithResource("nodes")),
		timeout: 10 * time.Minute,
	}, server
}

func daemonSet() runtime.Object {
	return &appsv1.DaemonSet{ObjectMeta: meta.ObjectMeta{Name: DefaultDaemonSet, Namespace: "ours"}}
}

// TestRemovalOfReadyNode: a node that is Ready and keeps the shim fails the removal after its time, with what it waits for.
func TestRemovalOfReadyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		class := "lifecycle"
		r, server := removalOf(t, core.ConditionTrue, daemonSet(),
			&core.Pod{ObjectMeta: meta.ObjectMeta{Namespace: "apps", Name: "p"}, Spec: core.PodSpec{NodeName: "n1", RuntimeClassName: &class}})
		begun := time.Now()
		err := r.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "n1: 1 pod of RuntimeClass lifecycle: apps/p") || !strings.Contains(err.Error(), UninstallAnnotation+"-") {
			t.Errorf("error %v", err)
		}
		if took := time.Since(begun); took != 10*time.Minute {
			t.Errorf("it took %s", took)
		}
		set, err := server.AppsV1().DaemonSets("ours").Get(t.Context(), DefaultDaemonSet, meta.GetOptions{})
		if err != nil || set.Annotations[UninstallAnnotation] != "true" {
			t.Errorf("annotations %v, error %v", set.Annotations, err)
		}
	})
}

// TestRemovalOfDeadNode: a node that is not Ready is waited for, and is no failure.
func TestRemovalOfDeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := removalOf(t, core.ConditionUnknown, daemonSet())
		begun := time.Now()
		if err := r.Run(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took != 10*time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// TestRemovalWithoutInstaller: without the DaemonSet there is nothing to wait for.
func TestRemovalWithoutInstaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := removalOf(t, core.ConditionTrue)
		begun := time.Now()
		err := r.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "there is no DaemonSet") || !strings.Contains(err.Error(), "n1") {
			t.Errorf("error %v", err)
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %s", took)
		}
	})
}
