package convert

import (
	"bytes"
	"slices"

	"go.yaml.in/yaml/v3"
)

// content skips a node's anchor and tag. at is the offset of the text after them, end the
// end of the last of them; both are the node's start if it has neither.
func (s *source) content(v *value) (at, end int) {
	at, end = v.start, v.start
	for at < len(s.text) && (s.text[at] == '&' || s.text[at] == '!') {
		for at < len(s.text) && bytes.IndexByte([]byte(" \t\r\n"), s.text[at]) < 0 && (!v.flowEnd(s.text[at])) {
			at++
		}
		end = at
		at = s.gap(at)
	}
	return at, end
}

// flowEnd reports whether a character ends an anchor or a tag that has no value.
func (v *value) flowEnd(c byte) bool {
	return v.kind == yaml.ScalarNode && v.text == "" && bytes.IndexByte([]byte(",]}"), c) >= 0
}

// end returns the offset after a node's last byte.
func (s *source) end(v *value) (int, error) {
	at, properties := s.content(v)
	switch {
	case v.kind == yaml.AliasNode:
		return s.plainEnd(v, at, "*"+v.text)
	case v.kind == yaml.ScalarNode:
		return s.scalarEnd(v, at, properties)
	case v.flow && at < len(s.text) && (s.text[at] == '{' || s.text[at] == '['):
		return s.flowEnd(v, at)
	case len(v.children) == 0:
		return 0, uncertain(v.line)
	case v.kind == yaml.MappingNode:
		return s.entryEnd(v, len(v.children)/2-1)
	default:
		return s.end(v.children[len(v.children)-1])
	}
}

// entryStart returns the start of a mapping's entry: its key, or the question mark before
// a key that is long or has a tag.
func (s *source) entryStart(mapping *value, entry int) int {
	key := mapping.children[2*entry].start
	before := bytes.TrimRight(s.text[:key], " \t\r\n")
	if at := len(before) - 1; at >= 0 && at < key-1 && before[at] == '?' && (at == 0 || bytes.IndexByte([]byte(" \t\r\n{,-"), before[at-1]) >= 0) {
		return at
	}
	return key
}

// entryEnd returns the end of a mapping's entry: the end of its value, or of the colon if
// the value is empty.
func (s *source) entryEnd(mapping *value, entry int) (int, error) {
	key, v := mapping.children[2*entry], mapping.children[2*entry+1]
	if !s.empty(v) {
		return s.end(v)
	}
	end, err := s.end(key)
	if err != nil {
		return 0, err
	}
	if at := s.spaces(end); at < len(s.text) && s.text[at] == ':' {
		end = at + 1
	}
	return end, nil
}

// empty reports whether a value has no text, which means null.
func (s *source) empty(v *value) bool {
	if v.kind != yaml.ScalarNode || v.style != 0 || v.text != "" {
		return false
	}
	_, properties := s.content(v)
	return properties == v.start
}

func (s *source) scalarEnd(v *value, at, properties int) (int, error) {
	switch {
	case v.style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return s.blockScalarEnd(v, at)
	case v.style&yaml.DoubleQuotedStyle != 0:
		return s.quotedEnd(v, at, '"')
	case v.style&yaml.SingleQuotedStyle != 0:
		return s.quotedEnd(v, at, '\'')
	case v.text == "":
		return properties, nil
	default:
		return s.plainEnd(v, at, v.text)
	}
}

// plainEnd finds the end of a plain scalar by its words: it has no escapes.
func (s *source) plainEnd(v *value, at int, text string) (int, error) {
	for i, word := range bytes.FieldsFunc([]byte(text), isYAMLSpace) {
		if i > 0 {
			at = skipYAMLSpace(s.text, at)
		}
		if !bytes.HasPrefix(s.text[at:], word) {
			return 0, uncertain(v.line)
		}
		at += len(word)
	}
	return at, nil
}

func isYAMLSpace(r rune) bool {
	return slices.Contains([]rune{' ', '\t', '\r', '\n', 0x85, 0x2028, 0x2029}, r)
}

func skipYAMLSpace(text []byte, at int) int {
	return len(text) - len(bytes.TrimLeftFunc(text[at:], isYAMLSpace))
}

func (s *source) quotedEnd(v *value, at int, quote byte) (int, error) {
	if at >= len(s.text) || s.text[at] != quote {
		return 0, uncertain(v.line)
	}
	for at++; at < len(s.text); at++ {
		switch c := s.text[at]; {
		case c == '\\' && quote == '"':
			at++
		case c == quote && quote == '\'' && at+1 < len(s.text) && s.text[at+1] == quote:
			at++
		case c == quote:
			return at + 1, nil
		}
	}
	return 0, uncertain(v.line)
}

// blockScalarEnd returns the end of the last line of a literal or folded scalar. Empty
// lines at the end belong to it only if it keeps them ("+").
func (s *source) blockScalarEnd(v *value, at int) (int, error) {
	if at >= len(s.text) || s.text[at] != '|' && s.text[at] != '>' {
		return 0, uncertain(v.line)
	}
	header, _, _ := bytes.Cut(s.text[at+1:s.lineEnd(at)], []byte(" "))
	keep := bytes.IndexByte(header, '+') >= 0
	end, indent := s.lineEnd(at), -1
	hasLines := len(bytes.Trim([]byte(v.text), "\n")) > 0
	for at = s.nextLine(at); at < len(s.text); at = s.nextLine(at) {
		line := s.text[at:s.lineEnd(at)]
		first := len(line) - len(bytes.TrimLeft(line, " "))
		switch {
		case first == len(line):
			if keep {
				end = s.lineEnd(at)
			}
			continue
		case !hasLines:
			return end, nil
		case indent < 0:
			indent = first
		}
		if first < s.contentIndent(header, v, indent) {
			return end, nil
		}
		end = s.lineEnd(at)
	}
	return end, nil
}

// contentIndent returns the least indentation of a block scalar's lines. With an indicator
// the first line may be indented further.
func (s *source) contentIndent(header []byte, v *value, first int) int {
	at := bytes.IndexAny(header, "123456789")
	if at < 0 {
		return first
	}
	// The indicator counts from the parent's indentation, which is not known here. The
	// header's line is indented as far as the parent or further, as after "- ".
	line := s.text[s.lineStart(v.start):]
	return min(first, len(line)-len(bytes.TrimLeft(line, " "))+int(header[at]-'0'))
}

// flowEnd returns the end of a mapping in braces or a list in brackets.
func (s *source) flowEnd(v *value, at int) (int, error) {
	closing := byte('}')
	if v.kind == yaml.SequenceNode {
		closing = ']'
	}
	at++
	if last := len(v.children); last > 0 {
		var err error
		if v.kind == yaml.MappingNode {
			at, err = s.entryEnd(v, last/2-1)
		} else {
			at, err = s.end(v.children[last-1])
		}
		if err != nil {
			return 0, err
		}
	}
	if at = s.gap(at); at < len(s.text) && s.text[at] == ',' {
		at = s.gap(at + 1)
	}
	if at >= len(s.text) || s.text[at] != closing {
		return 0, uncertain(v.line)
	}
	return at + 1, nil
}
