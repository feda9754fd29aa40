package fleet

import (
	"context"
	"fmt"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

// brokenSettings is a settings file that is a node's own, so an installer without settings leaves it alone; the shim creates no container.
const brokenSettings = "DefaultGracePeriod = \n"

// A node that joins gets no pod of the class before it is ready. One whose check fails gets no label, its Event says why, and the others go
// on, even such as join later.
func TestNodesThatJoin(t *testing.T) {
	b := on(t)
	b.install("4", append(onAnyNode, "--set", "installer.stopAfterFailures=0")...)
	b.allReady()
	b.apply(example("early4", "node4"))
	b.apply(example("early5", "node5"))
	defer func() { // this fleet has nodes that the other tests do not expect
		b.uninstallBroken()
		b.abandon()
	}()

	b.joinNode(NodeConfig{Name: "node4", Files: map[string]string{"/etc/lifecycle-shim/config.toml": brokenSettings}})
	b.poll("an event on node4 that says why it is not ready", func() bool {
		return strings.Contains(b.nodeEvents("node4", "LifecycleShimInstallFailed"), "config.toml")
	})
	b.joinNode(NodeConfig{Name: "node5"})
	b.poll("a node for the pod that waits for node5", func() bool { return b.pod("early5").Spec.NodeName != "" })
	if !b.hasLabel("node5") {
		b.Error("node5 has a pod of the class before its label")
	}
	b.ready("early5")
	if b.hasLabel("node4") || b.pod("early4").Spec.NodeName != "" {
		b.Error("node4, whose check failed, has the label, or a pod of the class")
	}
	for _, name := range []string{"node1", "node2", "node3"} {
		if !b.hasLabel(name) {
			b.Errorf("%s has lost its label", name)
		}
	}
	b.Logf("node4: %s", b.nodeEvents("node4", "LifecycleShimInstallFailed"))
}

func (b *bench) joinNode(cfg NodeConfig) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	if _, err := b.AddNode(ctx, cfg); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) hasLabel(name string) bool {
	b.Helper()
	var node core.Node
	if err := b.Get(b.Context(), "/api/v1/nodes/"+name, &node); err != nil {
		b.Fatal(err)
	}
	return node.Labels[readyLabel] == "true"
}

// nodeEvents are the messages of a node's events of that reason.
func (b *bench) nodeEvents(node, reason string) string {
	b.Helper()
	var list core.EventList
	selector := fmt.Sprintf("involvedObject.kind%%3DNode,involvedObject.name%%3D%s,reason%%3D%s", node, reason)
	if err := b.Get(b.Context(), "/api/v1/events?fieldSelector="+selector, &list); err != nil {
		b.Fatal(err)
	}
	text := ""
	for _, event := range list.Items {
		text += event.Message + "\n"
	}
	return text
}

// uninstallBroken removes the release also from the node that never became ready.
func (b *bench) uninstallBroken() {
	b.Helper()
	if b.Failed() {
		return
	}
	b.kubectl("delete", "pod", "early4", "early5")
	b.uninstall("4")
	b.wantNothingInCluster()
}
