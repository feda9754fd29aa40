package convert

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// value is a node of a document and its place in the text.
type value struct {
	kind yaml.Kind // scalar, mapping, list or alias
	flow bool      // [a] or {a: b}; JSON is flow only
	// style of a scalar.
	style yaml.Style
	// text of a scalar; the name of an alias.
	text string
	// start is the offset of its first byte, with its anchor and tag.
	start int
	line  int
	// children of a list; of a mapping keys and values in turn.
	children []*value
	target   *value // of an alias
	merge    bool   // the key <<
}

// source is a document's text and the places of its nodes.
type source struct {
	text []byte
	json bool
	// eol is the line break of its first line.
	eol  string
	root *value
	// lines are the offsets at which its lines start. A document may be one long line.
	lines []int
}

// uncertain is the error for a place at which the text is not the node. The YAML parser
// counts lines and columns in its own way; unusual characters make the counts differ.
func uncertain(line int) error {
	return problem{line, "the YAML parser's position of a value does not match the text"}
}

// newSource finds the place of each node of a document in its text.
func newSource(text []byte, document *yaml.Node, isJSON bool) (*source, error) {
	s := &source{text: text, json: isJSON, eol: "\n", lines: lineStarts(text, isJSON)}
	if len(s.lines) > 1 {
		s.eol = s.eolOf(0)
	}
	if document.Kind == yaml.DocumentNode {
		document = document.Content[0]
	}
	b := builder{text: text, lines: s.lines, made: map[*yaml.Node]*value{}}
	root, err := b.build(document)
	if err != nil {
		return nil, err
	}
	for _, alias := range b.aliases {
		alias.made.target = b.made[alias.from.Alias]
	}
	s.root = root
	return s, nil
}

// lineStarts returns the offset of each line, by the line ends of YAML 1.1.
func lineStarts(text []byte, isJSON bool) []int {
	starts := []int{0}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\n', c == '\r' && (i+1 == len(text) || text[i+1] != '\n'):
			starts = append(starts, i+1)
		case isJSON:
		case c == 0xc2 && bytes.HasPrefix(text[i:], []byte("\u0085")):
			starts = append(starts, i+2)
		case c == 0xe2 && (bytes.HasPrefix(text[i:], []byte("\u2028")) || bytes.HasPrefix(text[i:], []byte("\u2029"))):
			starts = append(starts, i+3)
		}
	}
	return starts
}

type builder struct {
	text    []byte
	lines   []int
	made    map[*yaml.Node]*value // those with anchors
	aliases []builtAlias
	// The position of the previous lookup. Nodes come in the order of the text, so a long
	// line is scanned once.
	line, column, offset int
}

type builtAlias struct {
	made *value
	from *yaml.Node
}

func (b *builder) build(from *yaml.Node) (*value, error) {
	start, ok := b.place(from.Line, from.Column)
	if !ok {
		return nil, uncertain(from.Line)
	}
	v := &value{
		kind: from.Kind, flow: from.Style&yaml.FlowStyle != 0, style: from.Style &^ (yaml.FlowStyle | yaml.TaggedStyle),
		text: from.Value, start: start, line: from.Line, merge: isMerge(from),
	}
	if from.Anchor != "" {
		b.made[from] = v
	}
	if from.Kind == yaml.AliasNode {
		b.aliases = append(b.aliases, builtAlias{v, from})
		return v, nil
	}
	v.children = make([]*value, len(from.Content))
	for i, child := range from.Content {
		made, err := b.build(child)
		if err != nil {
			return nil, err
		}
		v.children[i] = made
	}
	return v, nil
}

// place returns the offset of a line and a column, both from 1. Columns count characters.
func (b *builder) place(line, column int) (int, bool) {
	if line < 1 || line > len(b.lines) {
		return 0, false
	}
	if line != b.line || column < b.column {
		b.line, b.column, b.offset = line, 1, b.lines[line-1]
	}
	for b.column < column {
		if b.offset >= len(b.text) {
			return 0, false
		}
		_, size := utf8.DecodeRune(b.text[b.offset:])
		b.offset += size
		b.column++
	}
	return b.offset, true
}

// lineOf returns the number of the line that holds a byte, from 1.
func (s *source) lineOf(at int) int {
	line, starts := slices.BinarySearch(s.lines, at)
	if starts {
		line++
	}
	return line
}

// lineStart returns the offset of the line that holds a byte.
func (s *source) lineStart(at int) int { return s.lines[s.lineOf(at)-1] }

// nextLine returns the offset of the line below.
func (s *source) nextLine(at int) int {
	if line := s.lineOf(at); line < len(s.lines) {
		return s.lines[line]
	}
	return len(s.text)
}

// lineEnd returns the offset of a line's end, before its line break.
func (s *source) lineEnd(at int) int {
	end := s.nextLine(at)
	for _, lineBreak := range []string{"\r\n", "\n", "\r", "\u0085", "\u2028", "\u2029"} {
		if before := end - len(lineBreak); before >= at && string(s.text[before:end]) == lineBreak && s.lineOf(before) < s.lineOf(end) {
			return before
		}
	}
	return end
}

// eolOf returns the line break of the line that holds a byte, or the first line's if it has
// none.
func (s *source) eolOf(at int) string {
	switch eol := string(s.text[s.lineEnd(at):s.nextLine(at)]); eol {
	case "\n", "\r\n", "\r":
		return eol
	default:
		return s.eol
	}
}

// before returns the text between the start of the line and a byte.
func (s *source) before(at int) []byte { return s.text[s.lineStart(at):at] }

// column counts the characters before a byte on its line.
func (s *source) column(at int) int { return utf8.RuneCount(s.before(at)) }

// firstOnLine reports whether only spaces precede a byte on its line.
func (s *source) firstOnLine(at int) bool { return isBlank(s.before(at)) }

// restIsEmpty reports whether only spaces and a comment follow on the line.
func (s *source) restIsEmpty(at int) bool {
	rest := s.text[at:s.lineEnd(at)]
	trimmed := bytes.TrimLeft(rest, " \t")
	return len(trimmed) == 0 || trimmed[0] == '#' && (len(trimmed) < len(rest) || at == 0)
}

func isBlank(text []byte) bool { return len(bytes.TrimLeft(text, " \t\r\n")) == 0 }

// spaces skips spaces and tabs.
func (s *source) spaces(at int) int {
	for at < len(s.text) && (s.text[at] == ' ' || s.text[at] == '\t') {
		at++
	}
	return at
}

// gap skips spaces, line breaks and comments.
func (s *source) gap(at int) int {
	for at < len(s.text) {
		switch c := s.text[at]; {
		case bytes.IndexByte([]byte(" \t\r\n"), c) >= 0:
			at++
		case c == '#' && (at == 0 || bytes.IndexByte([]byte(" \t\r\n"), s.text[at-1]) >= 0):
			at = s.lineEnd(at)
		default:
			return at
		}
	}
	return at
}
