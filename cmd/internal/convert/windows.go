package convert

import (
	"fmt"
	"slices"
)

// osLabels are the node labels that hold the operating system. The second one is from
// before Kubernetes 1.14 and is still set.
var osLabels = []string{"kubernetes.io/os", "beta.kubernetes.io/os"}

const windowsOS = "windows"

// windows returns the reason why a pod is for Windows nodes, as text for the user, or ""
// if it is not. The pod's own os decides, then where it may be scheduled. windowsOptions
// come last, because a pod that has them and is scheduled to Linux runs there.
func windows(spec map[string]any) string {
	if system, ok := mapping(spec["os"])["name"].(string); ok {
		return when(system == windowsOS, "os.name: windows")
	}
	selector := mapping(spec["nodeSelector"])
	for _, label := range osLabels {
		if system, ok := selector[label].(string); ok {
			return when(system == windowsOS, fmt.Sprintf("nodeSelector %s: windows", label))
		}
	}
	if label, system := requiredOS(spec); label != "" {
		return when(system == windowsOS, "node affinity for "+label+" windows")
	}
	if hasWindowsOptions(spec) {
		return "windowsOptions"
	}
	for _, list := range containerLists {
		items, _ := spec[list].([]any)
		if slices.ContainsFunc(items, func(item any) bool { return hasWindowsOptions(mapping(item)) }) {
			return "windowsOptions of a container"
		}
	}
	return ""
}

func when(so bool, text string) string {
	if so {
		return text
	}
	return ""
}

func mapping(value any) map[string]any {
	tree, _ := value.(map[string]any)
	return tree
}

func hasWindowsOptions(owner map[string]any) bool {
	return mapping(owner["securityContext"])["windowsOptions"] != nil
}

// requiredOS returns the label and the system that every term of the pod's required node
// affinity requires. The terms are alternatives: if they differ, or if one requires no
// system, the pod is not bound to one.
func requiredOS(spec map[string]any) (label, system string) {
	required := mapping(mapping(mapping(spec["affinity"])["nodeAffinity"])["requiredDuringSchedulingIgnoredDuringExecution"])
	terms, _ := required["nodeSelectorTerms"].([]any)
	for i, term := range terms {
		termLabel, termSystem := termOS(mapping(term))
		if termLabel == "" || i > 0 && termSystem != system {
			return "", ""
		}
		label, system = termLabel, termSystem
	}
	return label, system
}

// termOS returns the system that one term requires. All its expressions must hold, so one
// is enough.
func termOS(term map[string]any) (label, system string) {
	expressions, _ := term["matchExpressions"].([]any)
	for _, item := range expressions {
		expression := mapping(item)
		key, _ := expression["key"].(string)
		values, _ := expression["values"].([]any)
		if !slices.Contains(osLabels, key) || len(values) != 1 {
			continue
		}
		value, _ := values[0].(string)
		switch {
		case expression["operator"] == "In":
			return key, value
		case expression["operator"] == "NotIn" && value == "linux":
			return key, windowsOS // Kubernetes has only these two
		}
	}
	return "", ""
}
