package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// readJSON makes the tree of one JSON value. Encoding/json alone would lose the
// order of keys, and take a key twice.
func readJSON(data []byte) (*yaml.Node, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	node, err := readJSONValue(decoder, "")
	if err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return node, nil
}

func readJSONValue(decoder *json.Decoder, path string) (*yaml.Node, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch value := token.(type) {
	case json.Delim:
		if value == '[' {
			return readJSONList(decoder, path)
		}
		return readJSONObject(decoder, path)
	case string:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}, nil
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: value.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(value)}, nil
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
}

func readJSONList(decoder *json.Decoder, path string) (*yaml.Node, error) {
	node := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for decoder.More() {
		item, err := readJSONValue(decoder, fmt.Sprintf("%s[%d]", path, len(node.Content)))
		if err != nil {
			return nil, err
		}
		node.Content = append(node.Content, item)
	}
	_, err := decoder.Token()
	return node, err
}

func readJSONObject(decoder *json.Decoder, path string) (*yaml.Node, error) {
	node := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		key, _ := token.(string)
		if seen[key] {
			return nil, fmt.Errorf("the key %q is there twice, at %s", key, orTop(path))
		}
		seen[key] = true
		value, err := readJSONValue(decoder, path+"."+key)
		if err != nil {
			return nil, err
		}
		node.Content = append(node.Content, scalar(key), value)
	}
	_, err := decoder.Token()
	return node, err
}

func orTop(path string) string {
	if path == "" {
		return "the top"
	}
	return path[1:]
}

// writeJSON writes the tree in the style of the original: in one line, or in lines
// with its indentation.
func writeJSON(node *yaml.Node, original []byte) ([]byte, error) {
	var text bytes.Buffer
	if err := writeJSONValue(&text, node); err != nil {
		return nil, err
	}
	indent, lines := jsonIndent(original)
	if !lines {
		return text.Bytes(), nil
	}
	var pretty bytes.Buffer
	err := json.Indent(&pretty, text.Bytes(), "", indent)
	return pretty.Bytes(), err
}

// jsonIndent returns what is before the first key, if that is on a line of its own.
func jsonIndent(text []byte) (indent string, lines bool) {
	rest := bytes.TrimLeft(bytes.TrimPrefix(bytes.TrimSpace(text), []byte("{")), " \t\r")
	if !bytes.HasPrefix(rest, []byte("\n")) {
		return "", false
	}
	rest = bytes.TrimLeft(rest, "\r\n")
	return string(rest[:len(rest)-len(bytes.TrimLeft(rest, " \t"))]), true
}

func writeJSONValue(text *bytes.Buffer, node *yaml.Node) error {
	switch node.Kind {
	case yaml.MappingNode:
		text.WriteByte('{')
		for i := 0; i < len(node.Content); i += 2 {
			if i > 0 {
				text.WriteByte(',')
			}
			if err := writeJSONValue(text, node.Content[i]); err != nil {
				return err
			}
			text.WriteByte(':')
			if err := writeJSONValue(text, node.Content[i+1]); err != nil {
				return err
			}
		}
		text.WriteByte('}')
	case yaml.SequenceNode:
		text.WriteByte('[')
		for i, item := range node.Content {
			if i > 0 {
				text.WriteByte(',')
			}
			if err := writeJSONValue(text, item); err != nil {
				return err
			}
		}
		text.WriteByte(']')
	default:
		return writeJSONScalar(text, node)
	}
	return nil
}

func writeJSONScalar(text *bytes.Buffer, node *yaml.Node) error {
	if node.Tag != "!!str" {
		text.WriteString(node.Value) // as it was read
		return nil
	}
	quoted, err := marshal(node.Value)
	text.WriteString(quoted)
	return err
}
