package convert

import (
	"fmt"
	"strconv"
)

// apply performs an operation on a decoded object. Tests compare it with a library for JSON
// patches.
func (o Operation) apply(tree any) error {
	last := len(o.at) - 1
	for _, token := range o.at[:last] {
		switch value := tree.(type) {
		case map[string]any:
			tree = value[token]
		case []any:
			index, err := strconv.Atoi(token)
			if err != nil || index < 0 || index >= len(value) {
				return fmt.Errorf("%s is not there", o.at)
			}
			tree = value[index]
		default:
			return fmt.Errorf("%s is not there", o.at)
		}
	}
	parent, ok := tree.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is not in a mapping", o.at)
	}
	key := o.at[last]
	if _, there := parent[key]; !there && o.Op != "add" {
		return fmt.Errorf("%s is not there", o.at)
	}
	switch text, isText := o.Value.(string); {
	case o.Op == "remove":
		delete(parent, key)
	case isText:
		parent[key] = text
	default:
		parent[key] = map[string]any{}
	}
	return nil
}
