package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	kyaml "sigs.k8s.io/yaml"
	goyaml "sigs.k8s.io/yaml/goyaml.v2"

	"github.com/lifecycle-shim/lifecycle-shim/oci/bounded"
)

// document is one document of a stream: its separator line, if it has one, and its text.
type document struct {
	separator, text []byte
	number          int // from 1
	line            int // of the stream, where text begins
	json            bool
	// hidden is set for a JSON value that kubectl does not read: it follows another one
	// without a separator, in a stream that has separators.
	hidden bool
	// inline is set if it begins on the line of its separator, which kubectl skips.
	inline bool
}

// parsed is a document as read.
type parsed struct {
	// nodes hold the places in the text. They are nil if only kubectl's reader accepts the
	// text; nodesErr is the reason.
	nodes    *yaml.Node
	nodesErr error
	// tree is the decoded JSON that kubectl would send, nil if it is not an object.
	tree map[string]any
}

// limits returns the limits for reading a document. The work is linear in the text. Its
// aliases may add as much as the API server accepts for an object (etcd's limit is 1.5 MiB,
// that of a request 3 MiB).
func limits(text []byte) bounded.Limits {
	const nodes, bytes, depth = 1 << 20, 3 << 20, 1000
	return bounded.Limits{Bytes: len(text), Nodes: nodes + len(text), Depth: depth, Decoded: bytes + len(text), Repeated: true}
}

// words lists, in lower case, the words of which every handler has at least one, and
// everything that can spell them in another way: escapes and templates. An exclamation mark counts
// only if a percent sign follows, which is an escape in a tag.
var words = []string{"lifecycle", "poststart", "prestop", "binary", `\x`, `\u`, "\\\r", "\\\n", "{{", "!"}

// mayHold reports whether a text may have handlers. A text without any is not parsed: it is
// passed on unchanged, even if kubectl could not read it.
func mayHold(text []byte) bool {
	if bytes.IndexByte(text, 0) >= 0 { // UTF-16
		text = bytes.ReplaceAll(text, []byte{0}, nil)
	}
	for i := range text {
		for _, word := range wordsBy[text[i]] {
			if len(text)-i < len(word) || !bytes.EqualFold(text[i:i+len(word)], word) {
				continue
			}
			if text[i] != '!' {
				return true
			}
			if tag, _, _ := bytes.Cut(text[i:min(len(text), i+1024)], []byte(" ")); bytes.IndexByte(tag, '%') >= 0 {
				return true
			}
		}
	}
	return false
}

// wordsBy indexes the words by their first byte.
var wordsBy = func() (by [256][][]byte) {
	for _, word := range words {
		first := word[0]
		by[first] = append(by[first], []byte(word))
		if first >= 'a' && first <= 'z' {
			first -= 'a' - 'A'
			by[first] = append(by[first], []byte(word))
		}
	}
	return by
}()

func (d document) name() string { return fmt.Sprintf("document %d", d.number) }

// whole returns the separator and the text.
func (d document) whole() []byte { return append(append([]byte{}, d.separator...), d.text...) }

// convert returns the converted document with its separator.
func (d document) convert(report *Report, rules Rules, more []PodPath) ([]byte, error) {
	if !mayHold(d.text) {
		return d.whole(), nil
	}
	p, err := d.read()
	if err != nil || p.tree == nil {
		return d.whole(), err
	}
	var operations []Operation
	refusals, warnings := len(report.Refusals), len(report.Warnings)
	for _, object := range objects(p.tree, d.name(), more...) {
		refused, warned := len(report.Refusals), len(report.Warnings)
		operations = append(operations, convertObject(report, rules, object)...)
		place := object.places()
		d.locate(p, place, report.Refusals[refused:])
		d.locate(p, place, report.Warnings[warned:])
	}
	if len(operations) == 0 || len(report.Refusals) > refusals {
		return d.whole(), nil
	}
	if warning := d.repeated(p); warning != nil {
		report.Warnings = append(report.Warnings[:warnings], append([]Finding{*warning}, report.Warnings[warnings:]...)...)
	}
	text, err := d.patch(report, p, operations)
	return append(append([]byte{}, d.separator...), text...), err
}

// largeDocument is the size in bytes from which the two libraries read a document at the
// same time. The documents of a stream are converted in parallel; a large one would leave
// the other processors idle.
const largeDocument = 256 << 10

// read reads a document twice: with kubectl's library, which determines what it means, and
// into nodes, which record their places in the text.
func (d document) read() (*parsed, error) {
	switch {
	case d.inline:
		return nil, problem{1, "begins on the line of its ---, which kubectl does not read; begin it on the next line"}
	case d.hidden:
		return nil, problem{1, "follows another JSON value without a line --- between them, so kubectl does not read it; put one there"}
	case !utf8.Valid(d.text):
		return nil, problem{notUTF8Line(d.text), notUTF8}
	}
	p := &parsed{}
	// Kubectl's reader expands aliases, so a text with aliases must pass bounded.Read first.
	hasAliases := bytes.IndexByte(d.text, '*') >= 0
	meaningOf := sync.OnceValues(func() ([]byte, error) { return d.meaning(d.text) })
	if !hasAliases && len(d.text) >= largeDocument {
		go func() { _, _ = meaningOf() }() // its work is linear in the text
	}
	p.nodes, p.nodesErr = bounded.Read(string(d.text), limits(d.text))
	if p.nodesErr != nil {
		if hasAliases {
			return nil, d.unreadable(p, p.nodesErr)
		}
		if err := oneDocument(d.text); err != nil {
			return nil, err
		}
	}
	meaning, err := meaningOf()
	if err != nil {
		return nil, d.unreadable(p, err)
	}
	p.tree, _ = decodeObject(meaning)
	return p, nil
}

// oneDocument returns an error if a second document follows, which kubectl's reader ignores.
func oneDocument(text []byte) error {
	decoder := goyaml.NewDecoder(bytes.NewReader(text))
	var first, second any
	if err := decoder.Decode(&first); err != nil {
		return nil // kubectl's reader will report it
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return problem{1, "more follows the end of the document without a line ---, and kubectl does not read it; put one before it"}
	}
	return nil
}

// meaning returns the JSON that kubectl would send.
func (d document) meaning(text []byte) ([]byte, error) {
	if d.json {
		return text, nil
	}
	return kyaml.YAMLToJSON(text)
}

// patch returns the text after the operations. Kubectl's reader checks every result: a
// text that does not mean the patched original is not used.
func (d document) patch(report *Report, p *parsed, operations []Operation) ([]byte, error) {
	for _, operation := range operations {
		if err := operation.apply(p.tree); err != nil {
			return nil, fmt.Errorf("cannot be patched: %w", err)
		}
	}
	want := p.tree
	text, reason := d.edit(p, operations, want)
	if reason == nil {
		return text, nil
	}
	if d.json {
		return nil, reason
	}
	if p.nodesErr == nil { // edit has dropped them
		p.nodes, p.nodesErr = bounded.Read(string(d.text), limits(d.text))
	}
	text, err := d.rewrite(p, operations, want)
	if err != nil {
		return nil, err
	}
	warning := d.finding(reason)
	warning.Text = "is rewritten, because its text cannot be edited: " + warning.Text + ". It means the same, but its comments and its layout may have changed"
	report.warn(warning)
	return text, nil
}

// edit changes the text only where something moves. The error is the reason if it cannot. It
// sets p.nodes to nil, so that they need no memory while kubectl's reader runs.
func (d document) edit(p *parsed, operations []Operation, want map[string]any) ([]byte, error) {
	if p.nodesErr != nil {
		return nil, d.unreadable(p, p.nodesErr)
	}
	s, err := newSource(d.text, p.nodes, d.json)
	if err != nil {
		return nil, err
	}
	p.nodes = nil // frees a third of the memory before the text is read again
	e := newEditor(s)
	text, err := e.apply(operations)
	shared, first := e.shared, e.firstLine()
	if err == nil {
		err = d.verify(text, want)
	}
	var known problem
	switch {
	case err == nil:
		return text, nil
	case shared != nil:
		return nil, problem{shared.line, "an alias or a merge key shares what would change here with another place"}
	case errors.As(err, &known):
		return nil, err
	case strings.HasPrefix(err.Error(), "unknown anchor "):
		return nil, problem{first, "an anchor in what moves has an alias elsewhere"}
	default:
		return nil, problem{first, err.Error()}
	}
}

// rewrite prints a document from its nodes, which keeps comments and order. If that does
// not mean what it should, it prints the decoded values.
func (d document) rewrite(p *parsed, operations []Operation, want map[string]any) ([]byte, error) {
	if p.nodes != nil {
		if text, err := printed(p.nodes, operations); err == nil && d.verify(text, want) == nil {
			return text, nil
		}
	}
	text, err := goyaml.Marshal(want)
	if err == nil {
		err = d.verify(text, want)
	}
	if err != nil {
		line := 1
		var different difference
		if errors.As(err, &different) {
			line = lineAt(p.nodes, different.at)
		}
		return nil, problem{line, "cannot be converted, because printing it as YAML would change its meaning (" + err.Error() +
			"); write this value in double quotes, or convert the document from JSON (kubectl create --dry-run=client -o json)"}
	}
	return text, nil
}

// difference is the first place at which the meaning of a text is wrong.
type difference struct{ at pointer }

func (d difference) Error() string { return fmt.Sprintf("%s would mean something else", d.at) }

// verify returns an error unless the text means what it should.
func (d document) verify(text []byte, want map[string]any) error {
	meaning, err := d.meaning(text)
	if err != nil {
		_, why := problemOf(err)
		return errors.New(why) // without its line, which is one of the result, not of the input
	}
	// Both have sorted keys, so the same bytes mean the same; decoding and comparing the
	// values takes three times as long. JSON is as its author wrote it.
	if encoded, err := json.Marshal(want); !d.json && err == nil && bytes.Equal(encoded, meaning) {
		return nil
	}
	if got, ok := decodeObject(meaning); !ok || !reflect.DeepEqual(got, want) {
		return difference{firstDifference(want, got)}
	}
	return nil
}

// decodeObject decodes a JSON object and keeps numbers as they are written.
func decodeObject(text []byte) (map[string]any, bool) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, false
	}
	tree, ok := value.(map[string]any)
	return tree, ok
}
