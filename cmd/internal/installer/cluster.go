package installer

import (
	"context"
	"fmt"
	"strconv"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	apps "k8s.io/client-go/kubernetes/typed/apps/v1"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
)

// podsPage is how many pods are read at once: each may have 1.5 MB, if its author wants.
const podsPage = 25

// nodesPage is the same for whole Node objects, of which only failed ones are listed.
const nodesPage = 20

// cluster is the API server's side of a node.
type cluster struct {
	core       typed.CoreV1Interface
	daemonSets apps.DaemonSetInterface // of the installer's namespace
	daemonSet  string
	class      string // RuntimeClass
	keys       keys
}

// mark reports whether the shim is to be taken off every node, and on how many nodes the installer runs.
func (c *cluster) mark(ctx context.Context) (uninstall bool, scale int, err error) {
	set, err := c.daemonSets.Get(ctx, c.daemonSet, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, 1, nil // a pod that outlives its DaemonSet is about to be ended
	}
	if err != nil {
		return false, 0, fmt.Errorf("cannot read the DaemonSet %s: %w", c.daemonSet, err)
	}
	uninstall, _ = strconv.ParseBool(set.Annotations[UninstallAnnotation])
	return uninstall, int(set.Status.DesiredNumberScheduled), nil
}

func (c *cluster) node(ctx context.Context, name string) (*core.Node, error) {
	node, err := c.core.Nodes().Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot read the Node %s: %w", name, err)
	}
	return node, nil
}

// failed returns the nodes other than self on which the installation has failed. It counts until limit.
func (c *cluster) failed(ctx context.Context, self string, limit int) (Names, error) {
	var names Names
	options := meta.ListOptions{
		LabelSelector: labels.Set{c.keys.readyLabel: ReadyFalse}.String(),
		Limit:         int64(min(limit+1, nodesPage)),
	}
	for {
		page, err := c.core.Nodes().List(ctx, options)
		if err != nil {
			return Names{}, fmt.Errorf("cannot read which nodes have failed: %w", err)
		}
		for _, node := range page.Items {
			if node.Name != self && node.DeletionTimestamp == nil {
				names.Add(node.Name)
			}
		}
		if options.Continue = page.Continue; options.Continue == "" || names.Count >= limit {
			return names, nil
		}
	}
}

// pods returns those of the class that are on a node, and have not ended.
func (c *cluster) pods(ctx context.Context, node string) (Names, error) {
	var names Names
	options := meta.ListOptions{
		FieldSelector: fields.AndSelectors(
			fields.OneTermEqualSelector("spec.nodeName", node),
			fields.OneTermNotEqualSelector("status.phase", string(core.PodSucceeded)),
			fields.OneTermNotEqualSelector("status.phase", string(core.PodFailed)),
		).String(),
		Limit: podsPage,
	}
	for {
		page, err := c.core.Pods(meta.NamespaceAll).List(ctx, options)
		if err != nil {
			return Names{}, fmt.Errorf("cannot read which pods are on %s: %w", node, err)
		}
		for _, pod := range page.Items {
			if class := pod.Spec.RuntimeClassName; class != nil && *class == c.class {
				names.Add(pod.Namespace + "/" + pod.Name)
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return names, nil
		}
	}
}

// write changes the Node.
func (c *cluster) write(ctx context.Context, node *core.Node, change change) error {
	patch, err := change.patch(node, c.keys)
	if err != nil {
		return err
	}
	if _, err := c.core.Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, meta.PatchOptions{}); err != nil {
		return fmt.Errorf("cannot write labels and annotations of the Node %s: %w", node.Name, err)
	}
	return nil
}

// reference is what Events on a Node are about.
func reference(node *core.Node) *core.ObjectReference {
	return &core.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID}
}
