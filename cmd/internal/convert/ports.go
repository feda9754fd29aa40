package convert

import (
	"encoding/json"
	"fmt"
	"strings"
)

// shownPorts bounds how many names of ports are listed to choose from.
const shownPorts = 10

// resolvePort finds the number of a container's own port, as the kubelet does
// (pkg/probe/util.go), but for digits in quotes: the kubelet takes them for a
// number, and the API server lets no such name pass.
func resolvePort(container map[string]any, name string) (any, string) {
	ports, _ := container["ports"].([]any)
	var named []string
	for _, item := range ports {
		port, _ := item.(map[string]any)
		known, _ := port["name"].(string)
		if known == "" {
			continue
		}
		if number, ok := port["containerPort"].(json.Number); ok && known == name {
			return number, ""
		}
		if len(named) < shownPorts {
			named = append(named, known)
		}
	}
	switch {
	case name != "" && strings.Trim(name, "0123456789") == "":
		return nil, fmt.Sprintf("is %q, a number in quotes, which is read as a name and the API server refuses; write it without quotes", cut(name))
	case len(named) == 0:
		return nil, fmt.Sprintf("is the name %q, and no port of this container has a name; give the number, or a port of that name in the container's ports", cut(name))
	default:
		return nil, fmt.Sprintf("is the name %q, and this container's ports are called %s; give one of them, or the number", cut(name), cut(strings.Join(named, ", ")))
	}
}
