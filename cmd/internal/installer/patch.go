package installer

import (
	"encoding/json"
	"slices"

	core "k8s.io/api/core/v1"
)

// change is what a step writes on the Node. A nil field stays as it is; an empty string removes what it is about.
type change struct {
	ready, installed, failure *string
	untaint                   bool
}

// keys are the names that a user can configure.
type keys struct {
	readyLabel, startupTaint string
}

// patch is a merge patch of the Node: what others write meanwhile stays. The uid makes the API server refuse it if the Node
// is another machine by now. Taints can only be written all together, so then it also refuses it if the Node has changed.
func (c change) patch(node *core.Node, keys keys) ([]byte, error) {
	metadata := map[string]any{"uid": node.UID}
	if c.ready != nil {
		metadata["labels"] = map[string]any{keys.readyLabel: orNull(*c.ready)}
	}
	annotations := map[string]any{}
	if c.installed != nil {
		annotations[InstalledAnnotation] = orNull(*c.installed)
	}
	if c.failure != nil {
		annotations[ErrorAnnotation] = orNull(*c.failure)
	}
	if len(annotations) > 0 {
		metadata["annotations"] = annotations
	}
	patch := map[string]any{"metadata": metadata}
	if c.untaint {
		others := slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t core.Taint) bool { return t.Key == keys.startupTaint })
		patch["spec"] = map[string]any{"taints": others}
		metadata["resourceVersion"] = node.ResourceVersion
	}
	return json.Marshal(patch)
}

// orNull: JSON's null removes a key.
func orNull(value string) any {
	if value == "" {
		return nil
	}
	return value
}

// view returns what counts of the Node.
func (k keys) view(node *core.Node) NodeView {
	installed, is := node.Annotations[InstalledAnnotation]
	_, failed := node.Annotations[ErrorAnnotation]
	v := NodeView{Ready: node.Labels[k.readyLabel], Installed: is, Checked: is && installed != Unchecked, Error: failed}
	for _, taint := range node.Spec.Taints {
		v.Tainted = v.Tainted || k.startupTaint != "" && taint.Key == k.startupTaint
	}
	return v
}
