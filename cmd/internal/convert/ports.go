package convert

import (
	"encoding/json"
	"fmt"
	"strings"
)

// shownPorts bounds the names of ports in an error.
const shownPorts = 10

// resolvePort returns the number of a container's port, as the kubelet does
// (pkg/probe/util.go). Digits in quotes are refused: the kubelet would read them as a
// number, but the API server accepts no such name.
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
		return nil, fmt.Sprintf("is %q, a number in quotes: the API server reads it as a name and refuses it; write it without quotes", cut(name))
	case len(named) == 0:
		return nil, fmt.Sprintf("is the name %q, but no port of this container has a name; give the number, or name one of the container's ports", cut(name))
	default:
		return nil, fmt.Sprintf("is the name %q, but this container's ports are named %s; give one of these names, or the number", cut(name), cut(strings.Join(named, ", ")))
	}
}
