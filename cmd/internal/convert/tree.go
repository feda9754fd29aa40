package convert

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

func scalar(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

// printed prints a document from its nodes, with aliases and merge keys expanded: a value
// that two containers share could not be changed for one of them only.
func printed(document *yaml.Node, operations []Operation) ([]byte, error) {
	root, err := resolve(document)
	if err != nil {
		return nil, err
	}
	for _, operation := range operations {
		if err := apply(root, operation); err != nil {
			return nil, err
		}
	}
	return writeYAML(root)
}

func isMerge(key *yaml.Node) bool { return key.Kind == yaml.ScalarNode && key.Tag == "!!merge" }

// resolve copies a tree and expands its aliases and merge keys. The number of nodes is
// bounded by the limits with which the document was read.
func resolve(node *yaml.Node) (*yaml.Node, error) {
	if node.Kind == yaml.AliasNode {
		return resolve(node.Alias)
	}
	copied := *node
	copied.Anchor, copied.Content = "", nil
	if node.Kind == yaml.MappingNode {
		return &copied, fill(&copied, node, map[string]int{})
	}
	for _, child := range node.Content {
		item, err := resolve(child)
		if err != nil {
			return nil, err
		}
		copied.Content = append(copied.Content, item)
	}
	return &copied, nil
}

// fill sets the mapping's keys in order, including those of a merge. If a key is set twice
// the later one wins, as in kubectl's library. places holds the index of each key.
func fill(into, from *yaml.Node, places map[string]int) error {
	for i := 0; i < len(from.Content); i += 2 {
		key, value := from.Content[i], from.Content[i+1]
		if isMerge(key) {
			if err := merge(into, value, places); err != nil {
				return err
			}
			continue
		}
		copiedKey, err := resolve(key)
		if err != nil {
			return err
		}
		copiedValue, err := resolve(value)
		if err != nil {
			return err
		}
		if at, there := places[copiedKey.Value]; there && copiedKey.Kind == yaml.ScalarNode {
			into.Content[at+1] = copiedValue
			continue
		}
		places[copiedKey.Value] = len(into.Content)
		into.Content = append(into.Content, copiedKey, copiedValue)
	}
	return nil
}

func merge(into, value *yaml.Node, places map[string]int) error {
	switch value.Kind {
	case yaml.AliasNode:
		return merge(into, value.Alias, places)
	case yaml.MappingNode:
		return fill(into, value, places)
	case yaml.SequenceNode: // of several, the first one wins
		for _, item := range slices.Backward(value.Content) {
			if err := merge(into, item, places); err != nil {
				return err
			}
		}
		return nil
	default:
		return errors.New("a merge key (<<) takes a mapping")
	}
}

// find returns the index of a mapping's key, or a negative number if it has no such key. If
// the key is there twice it returns the last one, as kubectl does.
func find(mapping *yaml.Node, key string) int {
	for i := len(mapping.Content) - 2; i >= 0; i -= 2 {
		if mapping.Content[i].Kind == yaml.ScalarNode && mapping.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// apply performs one operation on a tree without aliases.
func apply(root *yaml.Node, operation Operation) error {
	last := len(operation.at) - 1
	parent, err := walk(root, operation.at[:last])
	if err != nil {
		return err
	}
	if parent.Kind != yaml.MappingNode {
		return fmt.Errorf("%s is not a mapping", operation.at[:last])
	}
	key := operation.at[last]
	at := find(parent, key)
	switch {
	case operation.Op == "remove" && at >= 0:
		parent.Content = slices.Delete(parent.Content, at, at+2)
	case operation.Op == "remove":
		return fmt.Errorf("%s is not there", operation.at)
	case at >= 0:
		parent.Content[at+1] = valueNode(operation.Value)
	default:
		at = place(parent, key)
		parent.Content = slices.Insert(parent.Content, at, scalar(key), valueNode(operation.Value))
	}
	return nil
}

func walk(node *yaml.Node, path pointer) (*yaml.Node, error) {
	if node.Kind == yaml.DocumentNode {
		node = node.Content[0]
	}
	for i, token := range path {
		switch node.Kind {
		case yaml.MappingNode:
			at := find(node, token)
			if at < 0 {
				return nil, fmt.Errorf("%s is not there", path[:i+1])
			}
			node = node.Content[at+1]
		case yaml.SequenceNode:
			index, err := strconv.Atoi(token)
			if err != nil || index < 0 || index >= len(node.Content) {
				return nil, fmt.Errorf("%s is not there", path[:i+1])
			}
			node = node.Content[index]
		default:
			return nil, fmt.Errorf("%s is neither a mapping nor a list", path[:i])
		}
	}
	return node, nil
}

// place returns the index of a new key: where a reader would look for it.
func place(parent *yaml.Node, key string) int {
	switch key {
	case "metadata":
		return max(find(parent, "spec"), 0)
	case "runtimeClassName":
		return 0
	default:
		return len(parent.Content)
	}
}

// valueNode puts JSON in single quotes, in which YAML needs no escapes.
func valueNode(value any) *yaml.Node {
	text, ok := value.(string)
	if !ok {
		return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	node := scalar(text)
	if strings.HasPrefix(text, "{") {
		node.Style = yaml.SingleQuotedStyle
	}
	return node
}

// writeYAML writes the tree with the indentation of the original.
func writeYAML(node *yaml.Node) ([]byte, error) {
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(indentOf(node))
	if compactLists(node) {
		encoder.CompactSeqIndent()
	}
	if err := encoder.Encode(node); err != nil {
		return nil, err
	}
	err := encoder.Close()
	return text.Bytes(), err
}

// indentOf returns how far the first nested mapping is indented, 2 if there is none.
func indentOf(node *yaml.Node) int {
	const common, most = 2, 9
	if by := firstOf(node, func(parent, child *yaml.Node) int {
		if parent.Kind != yaml.MappingNode || child.Kind != yaml.MappingNode || parent.Line == child.Line {
			return 0
		}
		return child.Column - parent.Column
	}); by >= common && by <= most {
		return by
	}
	return common
}

// compactLists reports whether the first list begins in the column of its key.
func compactLists(node *yaml.Node) bool {
	return firstOf(node, func(parent, child *yaml.Node) int {
		if parent.Kind != yaml.MappingNode || child.Kind != yaml.SequenceNode || parent.Line == child.Line {
			return 0
		}
		return child.Column - parent.Column + 1
	}) == 1
}

// firstOf returns the first positive value of a parent and a child in block style.
func firstOf(node *yaml.Node, of func(parent, child *yaml.Node) int) int {
	if node.Style&yaml.FlowStyle != 0 {
		return 0
	}
	for i, child := range node.Content {
		if child.Style&yaml.FlowStyle == 0 && child.Line > 0 && (node.Kind != yaml.MappingNode || i%2 == 1) {
			if by := of(node, child); by > 0 {
				return by
			}
		}
		if by := firstOf(child, of); by > 0 {
			return by
		}
	}
	return 0
}
