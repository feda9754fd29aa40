package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	kyaml "sigs.k8s.io/yaml"
)

// document is one of a stream: a line that separates it, if there is one, and its
// text.
type document struct {
	separator, text []byte
	number          int // from 1
	json            bool
	// hidden: a JSON value that kubectl does not see, because another one is before
	// it without a separator, in a stream that has separators.
	hidden bool
	// inline: it begins on the line of its separator, which kubectl skips.
	inline bool
}

// byteOrderMark is what some editors begin a file with.
const byteOrderMark = "\ufeff"

const notUTF8 = "is not UTF-8 text; write the file in UTF-8"

// Stream converts the manifests in data: YAML or JSON documents, lists too. With a
// refusal it returns nothing; where nothing moves it returns data. more are kinds
// with pods that are not known by themselves.
func Stream(data []byte, runtimeClass string, more ...PodPath) ([]byte, *Report) {
	report := &Report{}
	if !utf8.Valid(data) {
		report.refuse(Finding{Text: notUTF8})
		return nil, report
	}
	var result bytes.Buffer
	text := bytes.TrimPrefix(data, []byte(byteOrderMark))
	result.Write(data[:len(data)-len(text)])
	for _, document := range split(text) {
		converted, err := document.convert(report, runtimeClass, more)
		if err != nil {
			report.refuse(Finding{Object: document.name(), Text: err.Error()})
		}
		result.Write(converted)
	}
	if len(report.Refusals) > 0 {
		return nil, report
	}
	return result.Bytes(), report
}

// separator is a line that begins a document. What follows on the line belongs to
// the document, unless it is a comment.
var (
	separator     = regexp.MustCompile(`(?m)^---(?:[ \t\r].*)?$`)
	bareSeparator = regexp.MustCompile(`^---[ \t\r]*(?:[ \t]#.*)?$`)
)

// split: no value of a YAML document can hold a line that begins with ---, nor can
// one of JSON.
func split(data []byte) []document {
	starts := []int{0}
	for _, match := range separator.FindAllIndex(data, -1) {
		if match[0] > 0 {
			starts = append(starts, match[0])
		}
	}
	var all []document
	number := 0
	for i, start := range starts {
		end := len(data)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		for _, d := range splitChunk(data[start:end], len(starts) > 1) {
			if len(bytes.TrimSpace(d.text)) > 0 {
				number++
			}
			d.number = number
			all = append(all, d)
		}
	}
	return all
}

// splitChunk takes a separator from the text, and JSON values apart.
func splitChunk(chunk []byte, separated bool) []document {
	line, rest, _ := bytes.Cut(chunk, []byte("\n"))
	d := document{text: chunk, inline: separator.Match(line)}
	if bareSeparator.Match(line) {
		d = document{separator: chunk[:len(chunk)-len(rest)], text: rest}
	}
	values := jsonValues(d.text)
	if values == nil {
		return []document{d}
	}
	all := make([]document, len(values))
	for i, value := range values {
		all[i] = document{text: value, json: true}
	}
	all[0].separator = d.separator
	for i := 1; i < len(all); i++ {
		all[i].hidden = separated
	}
	return all
}

// jsonValues takes a stream of JSON objects apart, with the space around them. It
// returns nil where the text is none.
func jsonValues(text []byte) [][]byte {
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	var ends []int
	for {
		var value json.RawMessage
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || value[0] != '{' {
			return nil
		}
		ends = append(ends, int(decoder.InputOffset()))
	}
	ends[len(ends)-1] = len(text)
	values, start := make([][]byte, len(ends)), 0
	for i, end := range ends {
		values[i], start = text[start:end], end
	}
	return values
}

// Join makes one stream of several. JSON values alone follow one another; kubectl
// reads no second one behind a YAML document, so then everything is parted by ---.
func Join(streams [][]byte) []byte {
	if len(streams) == 1 {
		return streams[0]
	}
	var parts [][]byte
	between := ""
	for _, stream := range streams {
		values := jsonValues(stream)
		if values == nil {
			between, values = "---\n", [][]byte{stream}
		}
		parts = append(parts, values...)
	}
	var all bytes.Buffer
	for i, part := range parts {
		if i > 0 {
			if !bytes.HasSuffix(all.Bytes(), []byte("\n")) {
				all.WriteByte('\n')
			}
			if first, _, _ := bytes.Cut(part, []byte("\n")); !separator.Match(first) {
				all.WriteString(between)
			}
		}
		all.Write(part)
	}
	return all.Bytes()
}

func (d document) name() string { return fmt.Sprintf("document %d", d.number) }

// convert returns the document's text, with its separator.
func (d document) convert(report *Report, runtimeClass string, more []PodPath) ([]byte, error) {
	whole := append(append([]byte{}, d.separator...), d.text...)
	root, err := d.read()
	if err != nil || root == nil {
		return whole, err
	}
	meaning, err := d.meaning(d.text)
	if err != nil {
		return nil, err
	}
	tree, ok := decodeObject(meaning)
	if !ok {
		return whole, nil
	}
	var operations []Operation
	for _, object := range objects(tree, d.name(), more...) {
		operations = append(operations, convertObject(report, runtimeClass, object)...)
	}
	if len(operations) == 0 {
		return whole, nil
	}
	text, err := d.edit(root, operations)
	if err != nil {
		return nil, fmt.Errorf("cannot be rewritten: %w", err)
	}
	if err := d.verify(meaning, operations, text); err != nil {
		return nil, err
	}
	return append(append([]byte{}, d.separator...), text...), nil
}

// read makes the tree to edit.
func (d document) read() (*yaml.Node, error) {
	if d.inline {
		return nil, errors.New("begins on the line of its ---, which kubectl does not read; begin it on the next line")
	}
	if d.hidden {
		return nil, errors.New("follows another JSON value without a line --- between them, so kubectl does not read it; put one there")
	}
	if d.json {
		root, err := readJSON(d.text)
		if err != nil {
			return nil, fmt.Errorf("is not valid JSON: %s", oneLine(err))
		}
		return root, nil
	}
	root, err := readYAML(d.text)
	if err != nil {
		return nil, fmt.Errorf("is not valid YAML: %s", oneLine(err))
	}
	return root, nil
}

// meaning returns the JSON that kubectl would send.
func (d document) meaning(text []byte) ([]byte, error) {
	if d.json {
		return text, nil
	}
	meaning, err := kyaml.YAMLToJSON(text)
	if err != nil {
		return nil, fmt.Errorf("is not YAML that kubectl can read: %s", oneLine(err))
	}
	return meaning, nil
}

func (d document) edit(root *yaml.Node, operations []Operation) ([]byte, error) {
	if shared(root) {
		resolved, err := resolve(root)
		if err != nil {
			return nil, err
		}
		root = resolved
	}
	for _, operation := range operations {
		if err := apply(root, operation); err != nil {
			return nil, err
		}
	}
	if !d.json {
		return writeYAML(root)
	}
	text, err := writeJSON(root, d.text)
	before := d.text[:bytes.IndexByte(d.text, '{')]
	after := d.text[bytes.LastIndexByte(d.text, '}')+1:]
	return bytes.Join([][]byte{before, text, after}, nil), err
}

// verify compares what was written with the patched meaning of what was read.
func (d document) verify(meaning []byte, operations []Operation, text []byte) error {
	encoded, err := json.Marshal(operations)
	if err != nil {
		return err
	}
	patch, err := jsonpatch.DecodePatch(encoded)
	if err != nil {
		return err
	}
	want, err := patch.Apply(meaning)
	if err != nil {
		return fmt.Errorf("cannot be patched: %w", err)
	}
	got, err := d.meaning(text)
	if err != nil {
		return err
	}
	wantTree, wantOK := decodeObject(want)
	gotTree, gotOK := decodeObject(got)
	if !wantOK || !gotOK || !reflect.DeepEqual(wantTree, gotTree) {
		return errors.New("cannot be rewritten without a change of meaning: its YAML is read differently by different libraries; " +
			"convert it from JSON (kubectl create --dry-run=client -o json), or put its unusual values in double quotes")
	}
	return nil
}

// decodeObject keeps numbers as they are written.
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

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
