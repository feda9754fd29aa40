package bounded

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parseJSON returns the nodes that the YAML parser would return for the same values. The
// text must be valid JSON. It stops when a limit is exceeded.
func parseJSON(text string, limits Limits) (*yaml.Node, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	p := jsonParser{text: text, decoder: decoder, line: 1, column: 1}
	document := &yaml.Node{Kind: yaml.DocumentNode, Line: 1, Column: 1}
	open := []*yaml.Node{document}
	for {
		token, err := decoder.Token()
		if err != nil { // it is io.EOF, because the text is valid
			return document, nil
		}
		if delim, _ := token.(json.Delim); delim == '}' || delim == ']' {
			open = open[:len(open)-1]
			continue
		}
		node := p.node(token)
		if p.nodes++; p.nodes > limits.Nodes {
			return nil, tooMany(node, limits)
		}
		parent := open[len(open)-1]
		parent.Content = append(parent.Content, node)
		if node.Kind != yaml.ScalarNode {
			if open = append(open, node); len(open)-1 > limits.Depth {
				return nil, tooDeep(node, limits)
			}
		}
	}
}

type jsonParser struct {
	text         string
	decoder      *json.Decoder
	nodes        int
	at           int // the end of the last token
	line, column int // of at, from 1
}

// node returns the node of the token that was read last.
func (p *jsonParser) node(token json.Token) *yaml.Node {
	end := int(p.decoder.InputOffset())
	node := &yaml.Node{Kind: yaml.ScalarNode}
	switch token := token.(type) {
	case json.Delim:
		node.Kind, node.Tag = yaml.MappingNode, "!!map"
		if token == '[' {
			node.Kind, node.Tag = yaml.SequenceNode, "!!seq"
		}
		node.Style = yaml.FlowStyle
	case string:
		node.Tag, node.Value, node.Style = "!!str", token, yaml.DoubleQuotedStyle
	case json.Number:
		node.Tag, node.Value = "!!int", token.String()
		if strings.ContainsAny(node.Value, ".eE") {
			node.Tag = "!!float"
		}
	case bool:
		node.Tag, node.Value = "!!bool", map[bool]string{true: "true", false: "false"}[token]
	default:
		node.Tag, node.Value = "!!null", "null"
	}
	// Line breaks are only between tokens: a JSON string cannot contain one.
	written := strings.TrimLeft(p.text[p.at:end], " \t\r\n,:}]")
	p.move(p.text[p.at : end-len(written)])
	node.Line, node.Column = p.line, p.column
	p.move(written)
	p.at = end
	return node
}

// move advances line and column by a text.
func (p *jsonParser) move(text string) {
	if lines := strings.Count(text, "\n"); lines > 0 {
		p.line += lines
		text = text[strings.LastIndexByte(text, '\n')+1:]
		p.column = 1
	}
	p.column += utf8.RuneCountInString(text)
}
