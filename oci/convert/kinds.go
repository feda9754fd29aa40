package convert

import (
	"fmt"
	"strings"
)

// templates are the kinds with a pod in them, by API group, and where it is: the
// object that has the pod's metadata and spec.
var templates = map[string]map[string]pointer{
	"": {
		"Pod":                   {},
		"PodTemplate":           {"template"},
		"ReplicationController": {"spec", "template"},
	},
	"apps": {
		"Deployment":  {"spec", "template"},
		"StatefulSet": {"spec", "template"},
		"DaemonSet":   {"spec", "template"},
		"ReplicaSet":  {"spec", "template"},
	},
	"extensions": { // as these were called before Kubernetes 1.16
		"Deployment": {"spec", "template"},
		"DaemonSet":  {"spec", "template"},
		"ReplicaSet": {"spec", "template"},
	},
	"batch": {
		"Job":     {"spec", "template"},
		"CronJob": {"spec", "jobTemplate", "spec", "template"},
	},
}

// object is one that an API server stores: a document, or an item of a list.
type object struct {
	name string // kind/name
	at   pointer
	tree map[string]any
	// pod is where the pod is within tree; known tells whether there is one.
	pod   pointer
	known bool
}

// podTree returns the object with the pod's metadata and spec.
func (o object) podTree() map[string]any {
	tree := o.tree
	for _, key := range o.pod {
		tree, _ = tree[key].(map[string]any)
	}
	return tree
}

// objects lists what a document holds: itself, or the items of a List, PodList, ….
func objects(tree map[string]any, fallback string) []object {
	return listed(tree, nil, "", "", fallback)
}

// listed: items of a typed list from an API server have no kind of their own.
func listed(tree map[string]any, at pointer, apiVersion, kind, fallback string) []object {
	if own, ok := tree["kind"].(string); ok {
		kind = own
		apiVersion, _ = tree["apiVersion"].(string)
	}
	items, isList := tree["items"].([]any)
	if isList && strings.HasSuffix(kind, "List") {
		var all []object
		for i, item := range items {
			if child, ok := item.(map[string]any); ok {
				all = append(all, listed(child, at.with("items").index(i), apiVersion, strings.TrimSuffix(kind, "List"),
					fmt.Sprintf("%s, item %d", fallback, i+1))...)
			}
		}
		return all
	}
	group, _, named := strings.Cut(apiVersion, "/")
	if !named {
		group = ""
	}
	pod, known := templates[group][kind]
	return []object{{name: nameOf(tree, kind, fallback), at: at, tree: tree, pod: pod, known: known}}
}

func nameOf(tree map[string]any, kind, fallback string) string {
	metadata, _ := tree["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	if generated, ok := metadata["generateName"].(string); ok && name == "" {
		name = generated + "…"
	}
	switch {
	case kind == "":
		return fallback
	case name == "":
		return kind + " (" + fallback + ")"
	default:
		return kind + "/" + name
	}
}
