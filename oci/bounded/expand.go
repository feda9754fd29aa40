package bounded

import "go.yaml.in/yaml/v3"

// Expand returns the value of a document that Read returned, without aliases and merge
// keys. It returns nil for nil. A mapping's own key has priority over a merged one, and
// among merged mappings the first one has priority. Expand does not change the document;
// the result may share nodes with it, and contain a node more than once.
func Expand(document *yaml.Node) *yaml.Node {
	if document == nil || len(document.Content) == 0 {
		return nil
	}
	e := expander{}
	return e.expand(document.Content[0])
}

// expander maps each node with an anchor to its expansion, so that every node is expanded
// only once.
type expander map[*yaml.Node]*yaml.Node

func (e expander) expand(node *yaml.Node) *yaml.Node {
	node = target(node)
	if known, ok := e[node]; ok {
		return known
	}
	expanded := e.content(node)
	if node.Anchor != "" {
		e[node] = expanded
	}
	return expanded
}

// content returns the node itself if it contains no alias and no merge key.
func (e expander) content(node *yaml.Node) *yaml.Node {
	content := make([]*yaml.Node, 0, len(node.Content))
	same := true
	var merges []*yaml.Node
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && isMerge(target(node.Content[i&^1])) {
			if i%2 == 1 {
				merges = append(merges, e.merged(child)...)
			}
			same = false
			continue
		}
		expanded := e.expand(child)
		same = same && expanded == child
		content = append(content, expanded)
	}
	if same {
		return node
	}
	copied := *node
	copied.Anchor, copied.Content = "", merge(content, merges)
	return &copied
}

// merged returns the mappings that a merge key names.
func (e expander) merged(value *yaml.Node) []*yaml.Node {
	expanded := e.expand(value)
	if expanded.Kind == yaml.SequenceNode {
		return expanded.Content
	}
	return []*yaml.Node{expanded}
}

// merge appends those pairs of the mappings whose keys are new.
func merge(content []*yaml.Node, mappings []*yaml.Node) []*yaml.Node {
	if len(mappings) == 0 {
		return content
	}
	seen := map[string]bool{}
	for i := 0; i < len(content); i += 2 {
		seen[content[i].Value] = true
	}
	for _, mapping := range mappings {
		for i := 0; i < len(mapping.Content); i += 2 {
			if key := mapping.Content[i]; !seen[key.Value] || key.Kind != yaml.ScalarNode {
				seen[key.Value] = true
				content = append(content, key, mapping.Content[i+1])
			}
		}
	}
	return content
}
