package convert

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// value is a node of a document, with its place in the text.
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

// source is a document's text, and what is known of it.
type source struct {
	text []byte
	json bool
	// eol is how its first line ends.
	eol  string
	root *value
	// lines are the offsets at which its lines start. A document may be one long line.
	lines []int
}

// uncertain reports that the text at a node's place is not the node. The YAML parser
// counts lines and columns in its own way, so this can only be an unusual character.
func uncertain(line int) error {
	return problem{line, "the place of a value in the text is not certain"}
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
	// The last place that was looked up. Nodes come in the order of the text, so a long
	// line is walked once.
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

// place returns the offset of a line and a column, both from 1. A column is a character.
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

// lineEnd returns the offset of the end of a line, without its line break.
func (s *source) lineEnd(at int) int {
	end := s.nextLine(at)
	for _, lineBreak := range []string{"\r\n", "\n", "\r", "\u0085", "\u2028", "\u2029"} {
		if before := end - len(lineBreak); before >= at && string(s.text[before:end]) == lineBreak && s.lineOf(before) < s.lineOf(end) {
			return before
		}
	}
	return end
}

// eolOf returns how the line of a byte ends: as the first one if it has no end.
func (s *source) eolOf(at int) string {
	switch eol := string(s.text[s.lineEnd(at):s.nextLine(at)]); eol {
	case "\n", "\r\n", "\r":
		return eol
	default:
		return s.eol
	}
}

// before returns what is on the line before a byte.
func (s *source) before(at int) []byte { return s.text[s.lineStart(at):at] }

// column counts the characters before a byte on its line.
func (s *source) column(at int) int { return utf8.RuneCount(s.before(at)) }

// firstOnLine reports whether only spaces are before a byte on its line.
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

// content skips a node's anchor and tag. It returns the offset of what follows them, and
// the end of the last one, which is the start if there is none.
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

// flowEnd reports whether a character ends an anchor or a tag without a value.
func (v *value) flowEnd(c byte) bool {
	return v.kind == yaml.ScalarNode && v.text == "" && bytes.IndexByte([]byte(",]}"), c) >= 0
}

// end returns the offset behind a node's last byte.
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

// entryStart returns the start of a mapping's entry: of its key, or of the question mark
// before a key that is long or has a tag.
func (s *source) entryStart(mapping *value, entry int) int {
	key := mapping.children[2*entry].start
	before := bytes.TrimRight(s.text[:key], " \t\r\n")
	if at := len(before) - 1; at >= 0 && at < key-1 && before[at] == '?' && (at == 0 || bytes.IndexByte([]byte(" \t\r\n{,-"), before[at-1]) >= 0) {
		return at
	}
	return key
}

// entryEnd returns the end of a mapping's entry: of its value, or of the colon if the
// value is empty.
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

// empty reports whether a value has no text at all, which means null.
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

// plainEnd finds the words of a plain scalar, which has no escapes.
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

// blockScalarEnd returns the end of the last line of a literal or folded scalar: with
// its last empty lines only if it keeps them.
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

// contentIndent returns how far a block scalar's lines are indented at least. With an
// indicator the first line may be indented further than that.
func (s *source) contentIndent(header []byte, v *value, first int) int {
	at := bytes.IndexAny(header, "123456789")
	if at < 0 {
		return first
	}
	// The indicator counts from the parent, which is not known here. The line of the
	// header is indented as far as the parent, or further, as behind "- ".
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
