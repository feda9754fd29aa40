package convert

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// Handlers in a place where Kubernetes does not look are lost silently: at best kubectl
// warns of an unknown field. So everything that looks like a handler is reported.

// actions of a handler.
var actions = []string{"exec", "httpGet", "tcpSocket", "sleep"}

// spelt returns the name that equals key without regard to case, or "".
func spelt(key string, names ...string) string {
	for _, name := range names {
		if strings.EqualFold(key, name) {
			return name
		}
	}
	return ""
}

// handlerKey reports whether a field has the name of a lifecycle or a handler.
func handlerKey(key string) bool {
	return spelt(key, append([]string{"lifecycle"}, oci.Handlers...)...) != ""
}

// looksLikeHandlers reports whether a field holds handlers and is not a field of another
// API with the same name: a lifecycle contains handlers, and a handler contains an action.
func looksLikeHandlers(key string, value any) bool {
	tree := mapping(value)
	switch {
	case spelt(key, "lifecycle") != "":
		return hasKey(tree, oci.Handlers)
	case spelt(key, oci.Handlers...) != "":
		return hasKey(tree, actions)
	}
	return false
}

func hasKey(tree map[string]any, names []string) bool {
	for key, value := range tree {
		if value != nil && spelt(key, names...) != "" {
			return true
		}
	}
	return false
}

// misplacedInPod lists handlers in the wrong place of a pod: beside the fields of its spec
// or of a container, or below one of these.
func misplacedInPod(object string, at pointer, pod map[string]any) []Finding {
	spec, isMapping := pod["spec"].(map[string]any)
	if !isMapping {
		return nil
	}
	var found []Finding
	at = at.with("spec")
	for _, key := range slices.Sorted(maps.Keys(spec)) {
		switch {
		case slices.Contains(containerLists, key):
			items, _ := spec[key].([]any)
			for i, item := range items {
				found = append(found, misplacedInContainer(object, at.with(key).index(i), mapping(item))...)
			}
		case handlerKey(key) && spec[key] != nil:
			found = append(found, misplaced(object, "", at.with(key)))
		default:
			for _, place := range handlersBelow(spec[key], at.with(key)) {
				found = append(found, misplaced(object, "", place))
			}
		}
		if len(found) > maxRefusals {
			return found[:maxRefusals]
		}
	}
	return found
}

func misplacedInContainer(object string, at pointer, container map[string]any) []Finding {
	var found []Finding
	name, _ := container["name"].(string)
	within := ""
	if name == "" { // the finding gives its index instead
		within = fmt.Sprintf("spec.%s[%s].", at[len(at)-2], at[len(at)-1])
	}
	for _, key := range slices.Sorted(maps.Keys(container)) {
		switch {
		case key == "lifecycle":
			if _, isMapping := container[key].(map[string]any); !isMapping && container[key] != nil {
				found = append(found, Finding{
					Object: object, Container: cut(name), Field: within + key,
					Text: "must be a mapping, with postStart, preStop or both, not " + kindOf(container[key]),
				})
			}
		case handlerKey(key) && container[key] != nil:
			finding := Finding{Object: object, Container: cut(name), Field: within + cut(key), Text: "is not a field of a container, so Kubernetes ignores it; write it below lifecycle"}
			if spelt(key, "lifecycle") != "" {
				finding.Text = "is not a field of a container, so Kubernetes ignores it; write lifecycle"
			}
			found = append(found, finding)
		default:
			for _, place := range handlersBelow(container[key], at.with(key)) {
				found = append(found, misplaced(object, name, place))
			}
		}
	}
	return found
}

func misplaced(object, container string, at pointer) Finding {
	return Finding{
		Object: object, Container: cut(container), Field: cut(strings.Join(at, ".")),
		Text: "is not where Kubernetes looks for handlers, so they would never run; move them into the lifecycle of a container",
	}
}

// reportElsewhere reports everything that looks like a handler outside of an object's pods.
// It is an error in a kind of Kubernetes, which has no such field. In another API its
// meaning is not known.
func reportElsewhere(report *Report, o object) {
	for _, place := range o.elsewhere {
		switch {
		case o.known && !o.guessed:
			report.refuse(misplaced(o.name, "", o.at.with(place...)))
		default:
			report.warn(Finding{Object: o.name, Field: cut(strings.Join(place, ".")), Text: "is left as it is, because no pod is known to be there: " +
				"if these are handlers of a pod, the kubelet runs them; give the pod's place with --pods-at to move them"})
		}
	}
}

// handlersOutside lists everything that looks like a handler outside of these pods.
func handlersOutside(tree map[string]any, pods []pointer) []pointer {
	w := search{pods: map[string]bool{}}
	for _, pod := range pods {
		w.pods[pod.with("spec").String()] = true
		w.deepest = max(w.deepest, len(pod))
	}
	w.tree(tree, nil)
	return w.found
}

func handlersBelow(tree any, at pointer) []pointer {
	var w search
	w.tree(tree, at)
	return w.found
}

// search finds everything that looks like a handler in a tree, up to maxRefusals.
type search struct {
	pods    map[string]bool // the specs of pods, which are left out
	deepest int             // length of the longest path to a pod: below it isPod is not asked
	found   []pointer
}

// tree appends to at in place: copies at each level would make the work quadratic in the
// depth.
func (w *search) tree(tree any, at pointer) {
	if len(w.found) >= maxRefusals {
		return
	}
	switch value := tree.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if looksLikeHandlers(key, value[key]) {
				w.found = append(w.found, at.with(key))
				continue
			}
			if hasChildren(value[key]) && !w.isPod(at, key) {
				w.tree(value[key], append(at, key))
			}
		}
	case []any:
		for i, item := range value {
			if hasChildren(item) {
				w.tree(item, append(at, strconv.Itoa(i)))
			}
		}
	}
}

func (w *search) isPod(at pointer, key string) bool {
	return key == "spec" && len(at) <= w.deepest && w.pods[at.with(key).String()]
}

// hasChildren reports whether a value has to be searched. Most values are scalars, and
// their paths need not be built.
func hasChildren(value any) bool {
	switch value := value.(type) {
	case map[string]any:
		return len(value) > 0
	case []any:
		return len(value) > 0
	}
	return false
}
