package convert

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// templates are the kinds that contain a pod, by API group, with the path of the object
// that has the pod's metadata and spec.
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
	"extensions": { // their group before Kubernetes 1.16
		"Deployment": {"spec", "template"},
		"DaemonSet":  {"spec", "template"},
		"ReplicaSet": {"spec", "template"},
	},
	"batch": {
		"Job":     {"spec", "template"},
		"CronJob": {"spec", "jobTemplate", "spec", "template"},
	},
}

// PodPath is where objects of a kind have pods, for kinds that are not built in.
type PodPath struct {
	group, kind string // an empty group matches any
	path        pointer
}

// eachItem stands in a path for every item of a list.
const eachItem = "[*]"

var podPath = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9]*)(?:\.([a-z0-9.-]+))?=([A-Za-z0-9_-]+(?:\[\*\])?(?:\.[A-Za-z0-9_-]+(?:\[\*\])?)*)$`)

// ParsePodPath parses KIND[.GROUP]=PATH. The path leads to the object that has a pod's
// metadata and spec. [*] follows the name of a list, as in
// RayCluster.ray.io=spec.workerGroupSpecs[*].template.
func ParsePodPath(text string) (PodPath, error) {
	parts := podPath.FindStringSubmatch(text)
	if parts == nil {
		return PodPath{}, fmt.Errorf("%q is not KIND[.GROUP]=PATH, such as RayCluster.ray.io=spec.workerGroupSpecs[*].template", text)
	}
	path := strings.Split(strings.ReplaceAll(parts[3], eachItem, "."+eachItem), ".")
	return PodPath{kind: parts[1], group: parts[2], path: path}, nil
}

// object is an object of the API: a document, or an item of a list. An object with several
// pods is listed once for each.
type object struct {
	name string // kind/name
	at   pointer
	tree map[string]any
	// pod is the path of the pod within tree; known is set if it has one.
	pod   pointer
	known bool
	// guessed is set if the kind is not known and has something like a pod template.
	guessed bool
	// elsewhere lists what looks like handlers outside of the object's pods. If the object
	// is listed more than once, only the first entry has it.
	elsewhere []pointer
}

// podTree returns the object with the pod's metadata and spec.
func (o object) podTree() map[string]any {
	return mapping(reach(o.tree, o.pod))
}

// reach returns the value at a path, nil if there is none.
func reach(tree any, path pointer) any {
	for _, key := range path {
		switch value := tree.(type) {
		case map[string]any:
			tree = value[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(value) {
				return nil
			}
			tree = value[i]
		default:
			return nil
		}
	}
	return tree
}

// objects lists the objects of a document: itself, or the items of a List, PodList, ….
func objects(tree map[string]any, fallback string, more ...PodPath) []object {
	return listed(tree, nil, "", "", fallback, more)
}

// listed does the work of objects. Items of a typed list have no kind; the list has it.
func listed(tree map[string]any, at pointer, apiVersion, kind, fallback string, more []PodPath) []object {
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
					fmt.Sprintf("%s, item %d", fallback, i+1), more)...)
			}
		}
		return all
	}
	group, _, named := strings.Cut(apiVersion, "/")
	if !named {
		group = ""
	}
	pods, guessed := podsOf(tree, group, kind, more)
	found := object{name: nameOf(tree, kind, fallback), at: at, tree: tree, elsewhere: handlersOutside(tree, pods)}
	if len(pods) == 0 {
		return []object{found}
	}
	var all []object
	for _, pod := range pods {
		found.pod, found.known, found.guessed = pod, true, guessed
		all = append(all, found)
		found.elsewhere = nil
	}
	return all
}

// podsOf returns the paths of an object's pods. An object of an unknown kind that has
// containers at spec.template.spec is guessed to have a pod template there, as Argo
// Rollouts, OpenKruise CloneSets, OpenShift DeploymentConfigs and Knative Services do.
func podsOf(tree map[string]any, group, kind string, more []PodPath) (pods []pointer, guessed bool) {
	if pod, ok := templates[group][kind]; ok {
		return []pointer{pod}, false
	}
	for _, one := range more {
		if one.kind == kind && (one.group == "" || one.group == group) {
			pods = append(pods, expand(tree, nil, one.path)...)
		}
	}
	if len(pods) > 0 {
		return pods, false
	}
	template := pointer{"spec", "template"}
	if _, ok := reach(tree, template.with("spec", "containers")).([]any); ok {
		return []pointer{template}, true
	}
	return nil, false
}

// expand returns the pointers that a path with [*] matches.
func expand(tree any, at, path pointer) []pointer {
	if len(path) == 0 {
		return []pointer{at}
	}
	switch value := tree.(type) {
	case map[string]any:
		if child, ok := value[path[0]]; ok {
			return expand(child, at.with(path[0]), path[1:])
		}
	case []any:
		var all []pointer
		if path[0] == eachItem {
			for i, item := range value {
				all = append(all, expand(item, at.index(i), path[1:])...)
			}
		}
		return all
	}
	return nil
}

// convertObject converts an object's pod, if it has one.
func convertObject(report *Report, rules Rules, o object) []Operation {
	reportElsewhere(report, o)
	if !o.known {
		return nil
	}
	at := o.at.with(o.pod...)
	operations := convertPod(context.Background(), report, rules, o.name, at, o.podTree())
	if o.guessed && len(operations) > 0 {
		report.warn(Finding{Object: o.name, Field: strings.Join(o.pod, "."), Text: "is taken for a pod template, although this kind is not known; " +
			"make sure that its API keeps runtimeClassName and the annotations there, or the handlers are lost"})
	}
	return operations
}

func nameOf(tree map[string]any, kind, fallback string) string {
	metadata, _ := tree["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	name = cut(name)
	if generated, ok := metadata["generateName"].(string); ok && name == "" {
		name = cut(generated) + "…"
	}
	kind = cut(kind)
	switch {
	case kind == "":
		return fallback
	case name == "":
		return kind + " (" + fallback + ")"
	default:
		return kind + "/" + name
	}
}
