package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// maxValue bounds an annotation's value, in bytes (SPEC 2).
const maxValue = 64 << 10

// maxProblems bounds what is said of one list or mapping.
const maxProblems = 20

// decode fills msg from the annotation's value and checks it. path is where msg
// stands in the lifecycle block.
func (s *Spec) decode(key, path string, msg proto.Message) error {
	err := decodeValue(s.Annotations[key], path, msg)
	if err == nil {
		switch m := msg.(type) {
		case *lifecyclev1.Block:
			err = checkLifecycle(m)
		case *lifecyclev1.Handler:
			err = checkHandler(path, m)
		}
	}
	return of(key, err)
}

// decodeValue is strict: no unknown or repeated field, no second document, and
// every value of the type that the schema has. As in YAML 1.2 only true and false
// are booleans, and a date is a text: a header's value may be y or 2026-01-01.
// protojson is not used: it takes numbers in quotes and names in either
// spelling, and its errors do not say where.
func decodeValue(value, path string, msg proto.Message) error {
	if len(value) > maxValue {
		return invalid("", "is %d bytes long; at most %d are allowed", len(value), maxValue)
	}
	if !utf8.ValidString(value) {
		return invalid("", "is not UTF-8 text")
	}
	decoder := yaml.NewDecoder(strings.NewReader(jsonAsYAML(value)))
	var document, more yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return invalid("", "is empty; a YAML mapping is expected")
	case err != nil:
		return invalid("", "is not valid YAML: %s", oneLine(err))
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return invalid("", "holds more than one YAML document; one is allowed")
	}
	datesAsText(&document)
	var tree any
	if err := document.Decode(&tree); err != nil {
		return invalid("", "is not valid YAML: %s", oneLine(err))
	}
	return decodeMessage(path, tree, msg.ProtoReflect())
}

// inJSONOnly is what JSON has and the YAML decoder refuses or takes for the end
// of a line: a character as two surrogates, and some characters as they are. All
// escapes match, so that a backslash which is escaped itself starts none.
var inJSONOnly = regexp.MustCompile(`\\u[dD][89abAB][[:xdigit:]]{2}\\u[dD][c-fC-F][[:xdigit:]]{2}|\\.|` +
	`[\x7f-\x9f\x{2028}\x{2029}\x{feff}\x{fffe}\x{ffff}]`)

// jsonAsYAML: a value may be any JSON, as Kubernetes' own tools take it.
func jsonAsYAML(value string) string {
	if !json.Valid([]byte(value)) {
		return value
	}
	return inJSONOnly.ReplaceAllStringFunc(value, func(match string) string {
		switch {
		case len(match) == len(`\ud83d\ude00`):
			var text string
			_ = json.Unmarshal([]byte(`"`+match+`"`), &text) // the value is valid
			return text
		case match[0] == '\\':
			return match
		default:
			char, _ := utf8.DecodeRuneInString(match)
			return fmt.Sprintf(`\u%04x`, char)
		}
	})
}

// datesAsText: YAML 1.2 has no dates, and Kubernetes reads them as text.
func datesAsText(node *yaml.Node) {
	if node.Kind == yaml.ScalarNode && node.Tag == "!!timestamp" {
		node.Tag = "!!str"
	}
	for _, child := range node.Content {
		datesAsText(child)
	}
}

func decodeMessage(path string, tree any, msg protoreflect.Message) error {
	object, ok := tree.(map[string]any)
	if !ok {
		return invalid(path, "must be a mapping, not %s", kindOf(tree))
	}
	fields := msg.Descriptor().Fields()
	var errs []error
	for _, name := range sortedKeys(object) {
		field := fields.ByJSONName(name)
		var err error
		switch {
		case field == nil:
			err = invalid(join(path, name), "is not a known field; allowed are %s", names(fields))
		case object[name] == nil: // null is absent, as in Kubernetes
		default:
			err = decodeField(join(path, name), object[name], msg, field)
		}
		if err != nil {
			errs = append(errs, err)
		}
		if len(errs) == maxProblems {
			break
		}
	}
	return errors.Join(errs...)
}

func decodeField(path string, tree any, msg protoreflect.Message, field protoreflect.FieldDescriptor) error {
	if !field.IsList() {
		value, err := decodeSingle(path, tree, field, msg.NewField)
		if err == nil {
			msg.Set(field, value)
		}
		return err
	}
	items, ok := tree.([]any)
	if !ok {
		return invalid(path, "must be a list, not %s", kindOf(tree))
	}
	list := msg.Mutable(field).List()
	var errs []error
	for i, item := range items {
		value, err := decodeSingle(fmt.Sprintf("%s[%d]", path, i), item, field,
			func(protoreflect.FieldDescriptor) protoreflect.Value { return list.NewElement() })
		if err != nil {
			if errs = append(errs, err); len(errs) == maxProblems {
				break
			}
			continue
		}
		list.Append(value)
	}
	return errors.Join(errs...)
}

// decodeSingle decodes the kinds that the schema uses; the schema's own test
// fails when a field of another kind is added.
func decodeSingle(path string, tree any, field protoreflect.FieldDescriptor,
	newValue func(protoreflect.FieldDescriptor) protoreflect.Value,
) (protoreflect.Value, error) {
	switch field.Kind() {
	case protoreflect.StringKind:
		text, ok := tree.(string)
		if !ok {
			return protoreflect.Value{}, invalid(path, "must be a string, not %s (put it in quotes)", kindOf(tree))
		}
		if !utf8.ValidString(text) { // by !!binary: no protobuf message may hold it
			return protoreflect.Value{}, invalid(path, "is not UTF-8 text")
		}
		return protoreflect.ValueOfString(text), nil
	case protoreflect.Int32Kind:
		if text, ok := tree.(string); ok && field.Name() == "port" { // the one field that Kubernetes allows a name in
			return protoreflect.Value{}, invalid(path, "is the text %q; a number from 1 to 65535 is allowed, without quotes"+
				" (names are resolved by lifecyclectl and the admission policy)", text)
		}
		number, err := decodeInteger(path, tree, 32)
		return protoreflect.ValueOfInt32(int32(number)), err
	case protoreflect.Int64Kind:
		number, err := decodeInteger(path, tree, 64)
		return protoreflect.ValueOfInt64(number), err
	case protoreflect.MessageKind:
		value := newValue(field)
		return value, decodeMessage(path, tree, value.Message())
	default:
		return protoreflect.Value{}, fmt.Errorf("%s: the schema has a field of kind %s, which is not decoded", path, field.Kind())
	}
}

// decodeInteger takes the types in which the YAML decoder gives a whole number.
func decodeInteger(path string, tree any, bits int) (int64, error) {
	var value int64
	switch number := tree.(type) {
	case int:
		value = int64(number)
	case int64:
		value = number
	case uint64, float64:
		return 0, invalid(path, "must be a whole number of %d bits, written without point, exponent or leading 0; it is read as %v", bits, number)
	default:
		return 0, invalid(path, "must be a whole number, not %s", kindOf(tree))
	}
	if bits == 32 && int64(int32(value)) != value {
		return 0, invalid(path, "must be a whole number of %d bits, not %d", bits, value)
	}
	return value, nil
}

func kindOf(tree any) string {
	switch tree.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case int, int64, uint64, float64:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "a list"
	case map[string]any:
		return "a mapping"
	default:
		return "a mapping with keys that are no strings"
	}
}

func names(fields protoreflect.FieldDescriptors) string {
	all := make([]string, fields.Len())
	for i := range all {
		all[i] = fields.Get(i).JSONName()
	}
	return strings.Join(all, ", ")
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// oneLine makes a YAML error fit into the one line that an operator reads.
func oneLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
