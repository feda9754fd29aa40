package bounded

import (
	"go.yaml.in/yaml/v3"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// size is the size of a value with its aliases and merge keys written out.
type size struct{ nodes, bytes, depth int }

// measurer checks a parsed document. It visits every node once. An alias comes after its
// anchor, so either the size of the anchor's value is known, or the alias is inside it.
type measurer struct {
	limits   Limits
	anchored map[*yaml.Node]size
}

// measure returns the node's size, or an error if it exceeds a limit. depth is how many
// mappings and lists contain the node.
func (m *measurer) measure(node *yaml.Node, depth int) (size, error) {
	if node.Kind == yaml.AliasNode {
		return m.alias(node, depth)
	}
	of := size{nodes: 1, bytes: len(node.Value)}
	switch node.Kind {
	case yaml.DocumentNode:
		of.nodes = 0
	case yaml.MappingNode, yaml.SequenceNode:
		of.depth = 1
	}
	if depth+of.depth > m.limits.Depth {
		return of, tooDeep(node, m.limits)
	}
	if err := m.checkKeys(node); err != nil {
		return of, err
	}
	own := of.depth
	for _, child := range node.Content {
		below, err := m.measure(child, depth+own)
		if err != nil {
			return of, err
		}
		of.nodes, of.bytes, of.depth = of.nodes+below.nodes, of.bytes+below.bytes, max(of.depth, own+below.depth)
		if of.nodes > m.limits.Nodes {
			return of, tooMany(child, m.limits)
		}
		if of.bytes > m.limits.Decoded {
			return of, tooLarge(child, m.limits)
		}
	}
	if node.Anchor != "" {
		m.anchored[node] = of
	}
	return of, nil
}

func (m *measurer) alias(node *yaml.Node, depth int) (size, error) {
	of, ok := m.anchored[node.Alias]
	if !ok {
		return of, refuseAt(node.Line, "is not valid YAML: the value of the anchor %s contains itself", shorten.Quote(node.Value, 64))
	}
	if depth+of.depth > m.limits.Depth {
		return of, tooDeep(node, m.limits)
	}
	return of, nil
}

// checkKeys refuses a repeated key, and a merge key whose value is not a mapping or a list of
// mappings. It returns the first mistake.
func (m *measurer) checkKeys(node *yaml.Node) error {
	if node.Kind != yaml.MappingNode {
		return nil
	}
	lines := make(map[string]int, len(node.Content)/2)
	for i := 0; i < len(node.Content); i += 2 {
		key := target(node.Content[i])
		if key.Kind != yaml.ScalarNode {
			continue
		}
		line := node.Content[i].Line
		if first, ok := lines[key.Value]; ok && !m.limits.Repeated {
			return refuse("is not valid YAML: line %d: mapping key %s already defined at line %d", line, shorten.Quote(key.Value, 128), first)
		}
		lines[key.Value] = line
		if isMerge(key) && !canMerge(node.Content[i+1]) {
			return refuse("is not valid YAML: line %d: a merge key (<<) takes a mapping or a list of mappings", line)
		}
	}
	return nil
}

// canMerge reports whether the value of a merge key is a mapping, or a list of mappings that
// is not an alias itself.
func canMerge(value *yaml.Node) bool {
	if value.Kind != yaml.SequenceNode {
		return target(value).Kind == yaml.MappingNode
	}
	for _, item := range value.Content {
		if target(item).Kind != yaml.MappingNode {
			return false
		}
	}
	return true
}

func isMerge(key *yaml.Node) bool { return key.Kind == yaml.ScalarNode && key.Tag == "!!merge" }

// target returns the node that an alias names, and any other node itself. An alias cannot
// name another alias.
func target(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func tooDeep(node *yaml.Node, limits Limits) error {
	return refuseAt(node.Line, "has more than %d mappings and lists within one another", limits.Depth)
}

func tooMany(node *yaml.Node, limits Limits) error {
	return refuseAt(node.Line, "holds more than %d values, with aliases and merge keys (<<) written out", limits.Nodes)
}

func tooLarge(node *yaml.Node, limits Limits) error {
	return refuseAt(node.Line, "has more than %d bytes when it is decoded, with aliases and merge keys (<<) written out", limits.Decoded)
}
