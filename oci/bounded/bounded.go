// Package bounded reads YAML and JSON from untrusted sources, at a cost that its limits
// bound. The shim, lifecyclectl, the converter and the webhook all read through it.
//
//	document, err := bounded.Read(text, bounded.Annotation)
//	if err != nil {
//		return err // one line, at most MaxError bytes; begins with a verb: "is not valid YAML: …"
//	}
//	value := bounded.Expand(document) // nil if the text holds no value
//
// Read checks, in this order and each before the work that it bounds: the bytes of the
// text; that it is UTF-8; how many values it can contain at most; its syntax; that it is one
// document; its depth; the number of values and the bytes of all scalars, both as if every
// alias and every merge key (<<) were written out; repeated keys. Read reports only the
// first mistake. The work is linear in the length of the text.
//
// After Read, the cost of Expand and of any recursion over the tree is bounded too, by
// Limits.Nodes: a tree that Read accepted has no cycles.
//
// Do not call Decode of a yaml.Node with untrusted children: it compares each key of a
// mapping with each other one, and reports every pair. Decode of a scalar is fine.
package bounded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// Limits bound what Read accepts. All of them must be above 0.
type Limits struct {
	// Bytes is the maximum length of the text.
	Bytes int
	// Nodes is the maximum number of mappings, lists, scalars and keys, with aliases and merge
	// keys written out. A YAML text is also refused if more than this many of its characters
	// could begin a value, because only the parser knows which of them do: see marks.
	Nodes int
	// Depth is the maximum nesting of mappings and lists.
	Depth int
	// Decoded is the maximum size of all scalars and keys together, in bytes, with aliases and
	// merge keys written out.
	Decoded int
	// Repeated allows repeated keys in a mapping, as kubectl's reader does.
	Repeated bool
}

// Annotation bounds the value of an annotation (docs/spec.md#limits). Four handlers with 4096
// words each have about 16,400 nodes; the deepest field of a block is at depth 5.
var Annotation = Limits{Bytes: 64 << 10, Nodes: 24_000, Depth: 32, Decoded: 64 << 10}

// Error says why a text is refused. Its message is a predicate, such as "is not valid
// YAML: line 2: …", in one line of at most MaxError bytes.
type Error struct {
	// Line is counted from 1. It is 0 if the text as a whole is refused.
	Line int
	// Problem is the message without the line.
	Problem string
}

// MaxError bounds the message of an Error, in bytes.
const MaxError = 512

func (e *Error) Error() string {
	if e.Line == 0 {
		return shorten.End(e.Problem, MaxError)
	}
	return shorten.End(fmt.Sprintf("%s (line %d)", shorten.End(e.Problem, MaxError-24), e.Line), MaxError)
}

// refuse refuses a text as a whole.
func refuse(format string, args ...any) error {
	return &Error{Problem: shorten.End(fmt.Sprintf(format, args...), MaxError)}
}

// refuseAt refuses a text because of one line.
func refuseAt(line int, format string, args ...any) error {
	return &Error{Line: line, Problem: shorten.End(fmt.Sprintf(format, args...), MaxError)}
}

// Read parses a text with one YAML or JSON document, and checks it. The error is an *Error.
// Read returns the document's node, with comments and aliases as they were written, or nil
// if the text has only spaces and comments. JSON is read by a JSON parser, so it may contain
// escapes and characters that the YAML parser refuses.
func Read(text string, limits Limits) (*yaml.Node, error) {
	if len(text) > limits.Bytes {
		return nil, refuse("is %d bytes long; at most %d are allowed", len(text), limits.Bytes)
	}
	if !utf8.ValidString(text) {
		return nil, refuse("is not UTF-8 text")
	}
	parse := parseYAML
	if json.Valid([]byte(text)) {
		parse = parseJSON
	}
	document, err := parse(text, limits)
	if document == nil {
		return nil, err
	}
	m := measurer{limits: limits, anchored: map[*yaml.Node]size{}}
	if _, err := m.measure(document, 0); err != nil {
		return nil, err
	}
	return document, nil
}

// tagDirective matches a line that begins with %TAG. The parser expands each tag that uses
// the directive, and compares each directive with each tag. A quoted string may contain such
// a line too, but not in practice: it would begin at the left margin.
var tagDirective = regexp.MustCompile(`(?:^|[\n\r\x{85}\x{2028}\x{2029}\x{feff}])%TAG`)

// parseYAML calls the YAML parser. First it refuses texts for which the parser needs more
// than linear time, or memory for many more nodes than are allowed.
func parseYAML(text string, limits Limits) (*yaml.Node, error) {
	if marks(text) > limits.Nodes {
		return nil, refuse("has more than %d of the characters that can begin a YAML value or comment (, [ { : ? - #); write it as JSON, where those in texts do not count", limits.Nodes)
	}
	if strings.Contains(text, "%TAG") && tagDirective.MatchString(text) { // the expression alone is slow
		return nil, refuse("has a %%TAG directive, which is not supported")
	}
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var document, more yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, notYAML(err)
	}
	switch err := decoder.Decode(&more); {
	case errors.Is(err, io.EOF):
		return &document, nil
	case err != nil:
		return nil, notYAML(err)
	}
	return nil, refuseAt(more.Line, "holds more than one YAML document; one is allowed")
}

func notYAML(err error) error {
	return refuse("is not valid YAML: %s", shorten.OneLine(err.Error()))
}

// marks counts the characters that can begin a value or a comment. The parser makes at
// most three nodes for each of them (a pair in a list: mapping, key and value). A comment
// counts twice, because the parser needs more memory for it than for a node. Within quoted
// and block scalars these characters begin nothing, so the count may be too high, but never
// too low.
func marks(text string) int {
	count := 0
	for i := range len(text) {
		switch text[i] {
		case ',', '[', '{', ':', '?':
			count++
		case '#':
			count += 2
		case '-': // begins an item only before a space or an end of line
			if i+1 == len(text) || !isPlain(text[i+1]) {
				count++
			}
		}
	}
	return count
}

// isPlain reports whether the byte is an ASCII character other than a space or a control
// character. Some line breaks are not ASCII.
func isPlain(b byte) bool { return b > ' ' && b < utf8.RuneSelf }
