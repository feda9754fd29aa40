package convert

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// containerLists are the fields of a pod's spec with containers.
var containerLists = []string{"containers", "initContainers", "ephemeralContainers"}

// containerName matches the names that the API server accepts (RFC 1123 label) and that fit
// into an annotation's key.
var containerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// container is a container of a pod.
type container struct {
	name      string
	list      string // field of the pod's spec
	at        pointer
	tree      map[string]any
	lifecycle map[string]any
}

func (c container) sidecar() bool {
	return c.list == "initContainers" && c.tree["restartPolicy"] == "Always"
}

// movable returns which of the container's handlers are moved. A sidecar's preStop stays
// with the kubelet, because only the kubelet knows when the pod starts to terminate, unless
// the pod's annotation asks to move it.
func (c container) movable(sidecarsToo bool) []string {
	var kinds []string
	for _, kind := range handlerKinds {
		if c.lifecycle[kind] != nil && (kind != "preStop" || sidecarsToo || !c.sidecar()) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// only returns the lifecycle without handlers of other kinds.
func (c container) only(kinds []string) map[string]any {
	lifecycle := maps.Clone(c.lifecycle)
	for _, kind := range handlerKinds {
		if !slices.Contains(kinds, kind) {
			delete(lifecycle, kind)
		}
	}
	return lifecycle
}

// withHandlers lists the containers that have a handler, in the order of their annotations.
func withHandlers(spec map[string]any, at pointer) []container {
	var found []container
	for _, list := range containerLists {
		items, _ := spec[list].([]any)
		for i, item := range items {
			tree, _ := item.(map[string]any)
			lifecycle, _ := tree["lifecycle"].(map[string]any)
			if lifecycle["postStart"] == nil && lifecycle["preStop"] == nil && unknownField(lifecycle) == "" {
				continue
			}
			name, _ := tree["name"].(string)
			found = append(found, container{name: name, list: list, at: at.with(list).index(i), tree: tree, lifecycle: lifecycle})
		}
	}
	return found
}

// countNames returns the number of containers of each name.
func countNames(spec map[string]any) map[string]int {
	names := map[string]int{}
	for _, list := range containerLists {
		items, _ := spec[list].([]any)
		for _, item := range items {
			if name, ok := item.(bare); ok {
				names[string(name)]++
				continue
			}
			name, _ := mapping(item)["name"].(string)
			names[name]++
		}
	}
	return names
}

// unknownField returns a field of a lifecycle that Kubernetes does not have, such as a
// misspelt handler, or "".
func unknownField(lifecycle map[string]any) string {
	unknown := ""
	for name := range lifecycle {
		if !slices.Contains(handlerKinds, name) && name != "stopSignal" && (unknown == "" || name < unknown) {
			unknown = name
		}
	}
	return unknown
}

// notKubernetes returns the refusal of a field that Kubernetes does not have.
func notKubernetes(field, container string) string {
	text := "is not a known field; allowed: postStart, preStop and stopSignal"
	if slices.Contains(oci.Handlers, field) {
		text += fmt.Sprintf(": Kubernetes has no %s, so the whole block goes into the annotation %s", field, oci.NamedKey(cut(container)))
	}
	return text
}

// kindOf names the type of a JSON value.
func kindOf(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "a list"
	default:
		return "a mapping"
	}
}
