package convert

import (
	"bytes"
	"strings"

	"go.yaml.in/yaml/v3"
)

// flowStyle describes how a mapping in braces is written.
type flowStyle struct {
	json bool
	// quoted is set if keys are in double quotes, as in JSON.
	quoted bool
	colon  string
	comma  string
	// lines is set if each key begins a line. margin is the text before the key; step is
	// added to it at each level.
	lines        bool
	margin, step string
}

// flowEdits changes a mapping in braces.
func (e *editor) flowEdits(c *change) ([]textEdit, error) {
	style := e.styleOf(c.mapping)
	entries := len(c.mapping.children) / 2
	if entries == 0 || len(c.removed) == entries {
		return e.fillBraces(c, style)
	}
	var edits []textEdit
	err := c.runs(func(first, last int) error {
		edit, err := e.removeInFlow(c, first, last)
		edits = append(edits, edit)
		return err
	})
	if err != nil {
		return nil, err
	}
	for entry := range entries {
		to := c.replaced[entry]
		if to == nil {
			continue
		}
		edit, err := e.replaceInFlow(c.mapping, entry, style, to)
		if err != nil {
			return nil, err
		}
		edits = append(edits, edit)
	}
	for _, place := range c.places() {
		written, err := style.entries(e.eol, c.addedAt(place))
		if err != nil {
			return nil, err
		}
		if place < entries {
			at := e.entryStart(c.mapping, place)
			edits = append(edits, textEdit{start: at, end: at, text: written + "," + style.between(e.eol)})
			continue
		}
		more, err := e.appendInFlow(c.mapping, style, written)
		if err != nil {
			return nil, err
		}
		edits = append(edits, more...)
	}
	return edits, nil
}

// replaceInFlow replaces the value of an entry, or the whole entry if its key has a
// question mark.
func (e *editor) replaceInFlow(mapping *value, entry int, style flowStyle, to *fresh) (textEdit, error) {
	key := mapping.children[2*entry]
	end, err := e.entryEnd(mapping, entry)
	if err != nil {
		return textEdit{}, err
	}
	if start := e.entryStart(mapping, entry); start != key.start {
		text, err := style.entries(e.eol, []addition{{key.text, to}})
		return textEdit{start: start, end: end, text: text}, err
	}
	keyEnd, err := e.end(key)
	if err != nil {
		return textEdit{}, err
	}
	text, err := style.value(e.eol, to)
	return textEdit{start: keyEnd, end: end, text: ":" + style.colon + text}, err
}

// fillBraces replaces everything between the braces.
func (e *editor) fillBraces(c *change, style flowStyle) ([]textEdit, error) {
	at, _ := e.content(c.mapping)
	end, err := e.end(c.mapping)
	if err != nil {
		return nil, err
	}
	style.margin = e.marginOf(c.mapping)
	text, err := style.value(e.eol, &fresh{entries: c.added})
	return []textEdit{{start: at, end: end, text: text}}, err
}

// removeInFlow removes a run of entries and one comma.
func (e *editor) removeInFlow(c *change, first, last int) (textEdit, error) {
	start := e.entryStart(c.mapping, first)
	end, err := e.entryEnd(c.mapping, last)
	if err != nil {
		return textEdit{}, err
	}
	if 2*(last+1) == len(c.mapping.children) {
		// From the end of the entry before, with its comma. A comma after the run stays.
		before, err := e.entryEnd(c.mapping, first-1)
		return textEdit{start: before, end: end}, err
	}
	next := e.entryStart(c.mapping, last+1)
	comma := e.spaces(end)
	if comma >= len(e.text) || e.text[comma] != ',' {
		return textEdit{start: start, end: next}, nil // the comma begins the next line
	}
	if rest := e.spaces(comma + 1); rest == e.lineEnd(comma) || e.text[rest] == '#' {
		if e.firstOnLine(start) {
			return textEdit{start: e.lineStart(start), end: e.nextLine(comma)}, nil
		}
		if gap := e.text[e.nextLine(comma):next]; bytes.IndexByte(gap, '#') >= 0 {
			return textEdit{start: start, end: e.nextLine(comma)}, nil
		}
	}
	return textEdit{start: start, end: next}, nil
}

// appendInFlow adds entries after the last one.
func (e *editor) appendInFlow(mapping *value, style flowStyle, written string) ([]textEdit, error) {
	end, err := e.entryEnd(mapping, len(mapping.children)/2-1)
	if err != nil {
		return nil, err
	}
	if comma := e.spaces(end); comma < len(e.text) && e.text[comma] == ',' {
		return []textEdit{{start: comma + 1, end: comma + 1, text: style.between(e.eol) + written + ","}}, nil
	}
	rest := e.spaces(end)
	if !style.lines || rest >= len(e.text) || e.text[rest] != '#' {
		return []textEdit{{start: end, end: end, text: "," + style.between(e.eol) + written}}, nil
	}
	line := e.lineEnd(end) // after the comment
	return []textEdit{{start: end, end: end, text: ","}, {start: line, end: line, text: style.between(e.eol) + written}}, nil
}

// styleOf returns the style of a mapping, or of the document's root if the mapping is empty.
func (e *editor) styleOf(mapping *value) flowStyle {
	style := flowStyle{json: e.json, quoted: e.json, colon: " ", comma: " "}
	model := mapping
	if len(model.children) == 0 {
		model = e.root
	}
	if len(model.children) < 2 || !model.flow {
		return style
	}
	key, child := model.children[0], model.children[1]
	style.quoted = e.json || e.text[key.start] == '"'
	if end, err := e.end(key); e.json && err == nil {
		style.colon = string(e.text[e.spaces(end)+1 : child.start])
		style.comma = style.colon
	}
	if style.colon != " " && style.colon != "" {
		style.colon = " "
	}
	if start := e.entryStart(model, 0); e.firstOnLine(start) {
		style.lines, style.margin = true, string(e.before(start))
		style.step = strings.TrimPrefix(style.margin, e.marginOf(model))
	}
	style.comma = e.commaOf(model, style)
	return style
}

// commaOf returns the text between a comma and the next key on the same line.
func (e *editor) commaOf(model *value, style flowStyle) string {
	if style.lines || len(model.children) < 4 {
		return style.comma
	}
	end, err := e.entryEnd(model, 0)
	if err != nil {
		return style.comma
	}
	comma := e.spaces(end)
	if next := e.entryStart(model, 1); comma+1 <= next && e.spaces(comma+1) == next {
		return string(e.text[comma+1 : next])
	}
	return style.comma
}

// marginOf returns the indentation of the line that holds a value.
func (e *editor) marginOf(v *value) string {
	start := e.lineStart(v.start)
	return string(e.text[start:e.spaces(start)])
}

// between returns the text that follows a comma.
func (f flowStyle) between(eol string) string {
	if f.lines {
		return eol + f.margin
	}
	return f.comma
}

// entries writes entries, without a comma at the end.
func (f flowStyle) entries(eol string, all []addition) (string, error) {
	parts := make([]string, len(all))
	for i, a := range all {
		key, err := f.scalar(a.key)
		if err != nil {
			return "", err
		}
		text, err := f.value(eol, a.value)
		if err != nil {
			return "", err
		}
		parts[i] = key + ":" + f.colon + text
	}
	return strings.Join(parts, ","+f.between(eol)), nil
}

// value writes a value at the margin of its key.
func (f flowStyle) value(eol string, v *fresh) (string, error) {
	if v.isText {
		return f.scalar(v.text)
	}
	if len(v.entries) == 0 {
		return "{}", nil
	}
	within := f
	within.margin += f.step
	text, err := within.entries(eol, v.entries)
	if err != nil || !f.lines {
		return "{" + text + "}", err
	}
	return "{" + eol + within.margin + text + eol + f.margin + "}", nil
}

func (f flowStyle) scalar(text string) (string, error) {
	switch {
	case f.json:
		return marshal(text)
	case f.quoted:
		return yamlScalar(text, yaml.DoubleQuotedStyle)
	default:
		return yamlScalar(text, 0)
	}
}
