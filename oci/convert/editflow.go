package convert

import (
	"bytes"
	"strings"
)

// flowStyle is how a mapping in braces is written.
type flowStyle struct {
	json  bool
	colon string
	comma string
	// lines: each key has a line of its own. margin is what is before it; step is what is
	// added to it within.
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
		keyEnd, err := e.end(c.mapping.children[2*entry])
		if err != nil {
			return nil, err
		}
		end, err := e.entryEnd(c.mapping, entry)
		if err != nil {
			return nil, err
		}
		text, err := style.value(e.eol, to)
		if err != nil {
			return nil, err
		}
		edits = append(edits, textEdit{start: keyEnd, end: end, text: ":" + style.colon + text})
	}
	for _, place := range c.places() {
		written, err := style.entries(e.eol, c.addedAt(place))
		if err != nil {
			return nil, err
		}
		if place < entries {
			at := c.mapping.children[2*place].start
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

// fillBraces replaces all that is in the braces.
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

// removeInFlow removes a run of entries, with one comma.
func (e *editor) removeInFlow(c *change, first, last int) (textEdit, error) {
	start := c.mapping.children[2*first].start
	end, err := e.entryEnd(c.mapping, last)
	if err != nil {
		return textEdit{}, err
	}
	if 2*(last+1) == len(c.mapping.children) {
		// From behind the entry before, whose comma goes. A comma behind the run stays.
		before, err := e.entryEnd(c.mapping, first-1)
		return textEdit{start: before, end: end}, err
	}
	next := c.mapping.children[2*(last+1)].start
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

// appendInFlow adds entries behind the last one.
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
	line := e.lineEnd(end) // behind the comment
	return []textEdit{{start: end, end: end, text: ","}, {start: line, end: line, text: style.between(e.eol) + written}}, nil
}

// styleOf looks at how a mapping is written; at the document's first one if it is empty.
func (e *editor) styleOf(mapping *value) flowStyle {
	style := flowStyle{json: e.json, colon: " ", comma: " "}
	model := mapping
	if len(model.children) == 0 {
		model = e.root
	}
	if len(model.children) < 2 || !model.flow {
		return style
	}
	key, child := model.children[0], model.children[1]
	style.json = e.json || e.text[key.start] == '"'
	if end, err := e.end(key); e.json && err == nil {
		style.colon = string(e.text[e.spaces(end)+1 : child.start])
		style.comma = style.colon
	}
	if style.colon != " " && style.colon != "" {
		style.colon = " "
	}
	if e.firstOnLine(key.start) {
		style.lines, style.margin, style.step = true, string(e.before(key.start)), e.stepOf(model)
	}
	style.comma = e.commaOf(model, style)
	return style
}

// commaOf returns what is between a comma and the next key on the same line.
func (e *editor) commaOf(model *value, style flowStyle) string {
	if style.lines || len(model.children) < 4 {
		return style.comma
	}
	end, err := e.entryEnd(model, 0)
	if err != nil {
		return style.comma
	}
	comma := e.spaces(end)
	if next := model.children[2].start; comma+1 <= next && e.spaces(comma+1) == next {
		return string(e.text[comma+1 : next])
	}
	return style.comma
}

// marginOf returns the indentation of the line that a value is on.
func (e *editor) marginOf(v *value) string {
	start := e.lineStart(v.start)
	return string(e.text[start:e.spaces(start)])
}

// stepOf returns how much further the keys of a mapping are indented than its brace.
func (e *editor) stepOf(mapping *value) string {
	return strings.TrimPrefix(string(e.before(mapping.children[0].start)), e.marginOf(mapping))
}

// between returns what follows a comma.
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
	if f.json {
		return marshal(text)
	}
	return yamlScalar(text)
}
