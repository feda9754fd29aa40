package installer

import (
	"encoding/json"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
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

// patch is a strategic merge patch: what others write meanwhile stays. The uid makes the API server refuse it if the Node
// is another machine by now.
func (c change) patch(uid types.UID, keys keys) ([]byte, error) {
	metadata := map[string]any{"uid": uid}
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
		patch["spec"] = map[string]any{"taints": []any{map[string]any{"key": keys.startupTaint, "$patch": "delete"}}}
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
