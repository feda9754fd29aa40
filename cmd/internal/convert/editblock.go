package convert

import (
	"bytes"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// blockEdits changes a mapping in block style, where each key begins a line.
func (e *editor) blockEdits(c *change) ([]textEdit, error) {
	entries := len(c.mapping.children) / 2
	if len(c.removed) == entries {
		return nil, problem{c.mapping.line, "removing the handlers would leave a mapping empty"}
	}
	var edits []textEdit
	err := c.runs(func(first, last int) error {
		edit, err := e.removeLines(c.mapping, first, last)
		edits = append(edits, edit)
		return err
	})
	if err != nil {
		return nil, err
	}
	for entry := range entries {
		if to := c.replaced[entry]; to != nil {
			more, err := e.replaceInBlock(c, entry, to)
			if err != nil {
				return nil, err
			}
			edits = append(edits, more...)
		}
	}
	for _, place := range c.places() {
		lines, err := blockLines(c.addedAt(place), e.indent)
		if err != nil {
			return nil, err
		}
		insert := e.insertBefore
		if place == entries {
			insert = e.insertBehind
		}
		edit, err := insert(c.mapping, place, lines)
		if err != nil {
			return nil, err
		}
		edits = append(edits, edit)
	}
	return edits, nil
}

// removeLines removes a run of entries: their lines, the rest of their last line, and the
// comments below that are indented further than the key.
func (e *editor) removeLines(mapping *value, first, last int) (textEdit, error) {
	key := mapping.children[2*first]
	start := e.entryStart(mapping, first)
	end, err := e.entryEnd(mapping, last)
	if err != nil {
		return textEdit{}, err
	}
	if !e.restIsEmpty(end) {
		return textEdit{}, problem{e.lineOf(end), "other text follows on the last line of a handler"}
	}
	end = e.withComments(e.nextLine(end), e.column(start))
	if e.firstOnLine(start) {
		return textEdit{start: e.lineStart(start), end: end}, nil
	}
	// The key follows the dash of its list: the next entry takes its place.
	if !e.behindDash(start) {
		return textEdit{}, problem{key.line, "the key is not the first thing on its line"}
	}
	if 2*(last+1) < len(mapping.children) {
		next := e.entryStart(mapping, last+1)
		if comment := bytes.IndexByte(e.text[min(end, next):next], '#'); comment >= 0 {
			next = end + comment
		}
		return textEdit{start: start, end: next}, nil
	}
	return textEdit{}, problem{key.line, "removing the handlers would leave an item of a list empty"}
}

// withComments returns the offset after the comments that are indented further than a
// column, and the empty lines between them.
func (e *editor) withComments(at, column int) int {
	end := at
	for at < len(e.text) {
		first := e.spaces(at)
		switch {
		case first == e.lineEnd(at):
		case e.text[first] == '#' && first-at > column:
			end = e.nextLine(at)
		default:
			return end
		}
		if at = e.nextLine(at); at <= first {
			return end
		}
	}
	return end
}

// behindDash reports whether only dashes of lists precede a key on its line.
func (e *editor) behindDash(key int) bool {
	return len(bytes.TrimLeft(e.before(key), "- \t")) == 0
}

// insertBefore inserts lines before an entry, above the comments that belong to it.
func (e *editor) insertBefore(mapping *value, entry int, lines []string) (textEdit, error) {
	key := e.entryStart(mapping, entry)
	margin := strings.Repeat(" ", e.column(key))
	if !e.firstOnLine(key) {
		if !e.behindDash(key) {
			return textEdit{}, problem{e.lineOf(key), "the key is not the first thing on its line"}
		}
		eol := e.eolOf(key)
		text := strings.Join(lines, eol+margin) + eol + margin
		return textEdit{start: key, end: key, text: text}, nil
	}
	at, eol := e.lineStart(key), e.eolOf(key)
	for at > 0 {
		above := e.lineStart(at - 1)
		if first := e.spaces(above); first-above != len(margin) || e.text[first] != '#' {
			break
		}
		at = above
	}
	return textEdit{start: at, end: at, text: margin + strings.Join(lines, eol+margin) + eol}, nil
}

// insertBehind inserts lines below the last entry.
func (e *editor) insertBehind(mapping *value, entries int, lines []string) (textEdit, error) {
	end, err := e.entryEnd(mapping, entries-1)
	if err != nil {
		return textEdit{}, err
	}
	if !e.restIsEmpty(end) {
		return textEdit{}, problem{e.lineOf(end), "other text follows on the line below which a key would be added"}
	}
	margin := e.eolOf(end) + strings.Repeat(" ", e.column(e.entryStart(mapping, 0)))
	at := e.lineEnd(end)
	return textEdit{start: at, end: at, text: margin + strings.Join(lines, margin)}, nil
}

// replaceInBlock replaces the value of an entry if it is empty or on the key's line.
func (e *editor) replaceInBlock(c *change, entry int, to *fresh) ([]textEdit, error) {
	key, old := c.mapping.children[2*entry], c.mapping.children[2*entry+1]
	keyEnd, err := e.end(key)
	if err != nil {
		return nil, err
	}
	colon := e.spaces(keyEnd)
	end, err := e.entryEnd(c.mapping, entry)
	if err != nil {
		return nil, err
	}
	onLine := end <= e.lineEnd(key.start) && colon < len(e.text) && e.text[colon] == ':' && (old.kind == yaml.ScalarNode || old.flow)
	if !onLine || !e.restIsEmpty(end) {
		return nil, problem{old.line, "the value to be replaced has more than one line"}
	}
	if to.isText || len(to.entries) == 0 {
		text, err := inlineValue(to)
		return []textEdit{{start: colon + 1, end: end, text: " " + text}}, err
	}
	lines, err := blockLines(to.entries, e.indent)
	if err != nil {
		return nil, err
	}
	margin := e.eolOf(end) + strings.Repeat(" ", e.column(key.start)+e.indent)
	at := e.lineEnd(end)
	return []textEdit{{start: colon + 1, end: end}, {start: at, end: at, text: margin + strings.Join(lines, margin)}}, nil
}

// blockLines writes entries as lines. Nested ones are indented.
func blockLines(entries []addition, indent int) ([]string, error) {
	var lines []string
	for _, a := range entries {
		key, err := yamlScalar(a.key, 0)
		if err != nil {
			return nil, err
		}
		if a.value.isText || len(a.value.entries) == 0 {
			text, err := inlineValue(a.value)
			if err != nil {
				return nil, err
			}
			lines = append(lines, key+": "+text)
			continue
		}
		within, err := blockLines(a.value.entries, indent)
		if err != nil {
			return nil, err
		}
		lines = append(lines, key+":")
		for _, line := range within {
			lines = append(lines, strings.Repeat(" ", indent)+line)
		}
	}
	return lines, nil
}

func inlineValue(v *fresh) (string, error) {
	if !v.isText {
		return "{}", nil
	}
	return yamlScalar(v.text, 0)
}

// yamlScalar writes a text in one line. JSON is put in single quotes, in which YAML needs
// no escapes.
func yamlScalar(text string, style yaml.Style) (string, error) {
	if style == 0 {
		if written, ok := simpleScalar(text); ok {
			return written, nil
		}
	}
	node := valueNode(text)
	if style != 0 {
		node.Style = style
	}
	written, err := yaml.Marshal(node)
	return strings.TrimSuffix(string(written), "\n"), err
}

// annotationKey matches keys that YAML can write without quotes.
var annotationKey = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*/[a-z]+$`)

// simpleScalar writes what yamlScalar would write, but without the library, which needs
// 20 kB for an encoder. It returns false for texts that are not JSON objects in ASCII, nor
// keys of annotations.
func simpleScalar(text string) (string, bool) {
	isASCII := !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
	switch {
	case isASCII && strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}"):
		return "'" + strings.ReplaceAll(text, "'", "''") + "'", true
	case annotationKey.MatchString(text): // with a slash it is no number, boolean or null
		return text, true
	}
	return "", false
}
