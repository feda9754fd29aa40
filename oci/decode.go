package oci

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/oci/bounded"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// maxProblems bounds how many mistakes are reported in one value, and in the keys.
const maxProblems = 20

// decode fills msg from the annotation's value and checks it. path is the path of msg in
// the lifecycle block.
func (s *Spec) decode(key, path string, msg proto.Message) error {
	missing, err := decodeValue(s.Annotations[key], path, msg)
	if err == nil {
		switch m := msg.(type) {
		case *lifecyclev1.Block:
			err = checkLifecycle(m)
		case *lifecyclev1.Handler:
			err = checkHandler(path, m)
		}
	}
	return of(key, err, missing)
}

// decodeValue is strict: it refuses unknown and repeated fields, a second document, and
// values of another type than the schema's. As in YAML 1.2, only true and false are
// booleans, and a date is a string: a header's value may be y or 2026-01-01. It does not
// use protojson, which accepts numbers in quotes and names in two spellings, and whose
// errors lack the position.
//
// missing maps the paths of required fields that are absent to what they take. In msg, an
// absent field looks like 0.
func decodeValue(value, path string, msg proto.Message) (missing map[string]string, err error) {
	document, err := bounded.Read(value, bounded.Annotation)
	if err != nil {
		return nil, invalid("", "%s%s", err, unrendered(err, value))
	}
	root := bounded.Expand(document)
	if root == nil {
		return nil, invalid("", "is empty; a YAML mapping is expected")
	}
	d := decoder{missing: map[string]string{}}
	d.message(path, root, msg.ProtoReflect())
	return d.missing, errors.Join(d.problems...)
}

// templateHint is for values that still contain the braces of a template.
const templateHint = "this looks like a template ({{ … }}) that was not rendered: render it first, for instance with helm template"

// unrendered returns a hint if a text with the braces of a template is not YAML. In valid
// YAML, braces may be intended: docker inspect --format takes them.
func unrendered(err error, value string) string {
	if strings.HasPrefix(err.Error(), "is not valid YAML") && strings.Contains(value, "{{") {
		return "; " + templateHint
	}
	return ""
}

// isTemplate reports whether a mapping is {{ … }} without quotes. YAML reads it as a mapping
// whose key is a mapping.
func isTemplate(node *yaml.Node) bool {
	return len(node.Content) > 0 && node.Content[0].Kind == yaml.MappingNode &&
		node.Style&yaml.FlowStyle != 0 && node.Content[0].Style&yaml.FlowStyle != 0
}

// decoder collects the mistakes in a value, up to maxProblems.
type decoder struct {
	problems []error
	missing  map[string]string
}

// refuse adds a mistake. The loops check full before each value.
func (d *decoder) refuse(path, format string, args ...any) {
	d.problems = append(d.problems, invalid(path, format, args...))
}

func (d *decoder) full() bool { return len(d.problems) >= maxProblems }

// needed are the required fields of each message, and what they take.
var needed = map[protoreflect.Name]map[string]string{
	"ExecAction":      {"command": "a list of 1 to 4096 words is allowed, the first one a program"},
	"HTTPGetAction":   {"port": portTakes},
	"TCPSocketAction": {"port": portTakes},
}

func (d *decoder) message(path string, node *yaml.Node, msg protoreflect.Message) {
	if !d.isMapping(path, node) {
		return
	}
	fields := msg.Descriptor().Fields()
	given := map[string]bool{}
	for _, i := range sortedPairs(node) {
		if d.full() {
			return
		}
		name, value := node.Content[i].Value, node.Content[i+1]
		field := fields.ByJSONName(name)
		switch {
		case field == nil:
			d.refuse(join(path, shown(name)), "is not a known field; allowed: %s%s", names(fields), pasted(path, name))
		case isNull(value): // absent, as in Kubernetes
		default:
			given[name] = true
			d.field(join(path, name), value, msg, field)
		}
	}
	for name, takes := range needed[msg.Descriptor().Name()] {
		if !given[name] {
			d.missing[join(path, name)] = takes
		}
	}
}

// sortedPairs returns the indexes of a mapping's keys, sorted by key, so that the first
// mistake does not depend on the order in which a tool writes them.
func sortedPairs(mapping *yaml.Node) []int {
	pairs := make([]int, len(mapping.Content)/2)
	for i := range pairs {
		pairs[i] = 2 * i
	}
	slices.SortFunc(pairs, func(a, b int) int { return strings.Compare(mapping.Content[a].Value, mapping.Content[b].Value) })
	return pairs
}

// isMapping reports whether the node is a mapping whose keys are all strings.
func (d *decoder) isMapping(path string, node *yaml.Node) bool {
	if node.Kind != yaml.MappingNode {
		d.refuse(path, "must be a mapping, not %s", kindOf(node))
		return false
	}
	for i := 0; i < len(node.Content); i += 2 {
		if key := node.Content[i]; key.Kind != yaml.ScalarNode || !isText(key) {
			d.refuse(path, "must be a mapping, not %s", mappingKind(node))
			return false
		}
	}
	return true
}

// mappingKind describes a mapping that has a key which is not a string.
func mappingKind(node *yaml.Node) string {
	if isTemplate(node) {
		return kindOf(node)
	}
	return "a mapping with keys that are not strings"
}

// pasted returns a hint if the block was pasted together with its key, lifecycle.
func pasted(path, name string) string {
	if path == "" && name == "lifecycle" {
		return "; give only what is below lifecycle:"
	}
	return ""
}

func (d *decoder) field(path string, node *yaml.Node, msg protoreflect.Message, field protoreflect.FieldDescriptor) {
	if !field.IsList() {
		msg.Set(field, d.single(path, node, field, msg.NewField(field)))
		return
	}
	if node.Kind != yaml.SequenceNode {
		d.refuse(path, "must be a list, not %s", kindOf(node))
		return
	}
	list := msg.Mutable(field).List()
	for i, item := range node.Content {
		if d.full() {
			return
		}
		value := list.NewElement()
		if isNull(item) && field.Kind() == protoreflect.StringKind {
			list.Append(value) // encoding/json, and so the API server, reads null as an empty string
			continue
		}
		list.Append(d.single(fmt.Sprintf("%s[%d]", path, i), item, field, value))
	}
}

// single decodes the kinds that the schema uses; TestSchemaKinds fails if a field of
// another kind is added. It fills the given empty message, and returns other kinds as new
// values. An invalid value is returned as empty, which does not matter: a message with a
// mistake is never used.
func (d *decoder) single(path string, node *yaml.Node, field protoreflect.FieldDescriptor, empty protoreflect.Value) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(d.text(path, node))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(d.integer(path, node, 32, field.Name() == "port")))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(d.integer(path, node, 64, false))
	case protoreflect.MessageKind:
		d.message(path, node, empty.Message())
	default:
		d.refuse(path, "is of kind %s in the schema, which is not decoded", field.Kind())
	}
	return empty
}

func (d *decoder) text(path string, node *yaml.Node) string {
	value, err := scalar(node)
	text, ok := value.(string)
	switch {
	case err != nil:
		d.refuse(path, "is not valid YAML: %s", shorten.OneLine(err.Error()))
	case !ok:
		d.refuse(path, "must be a string, not %s (put it in quotes)", kindOf(node))
	case !utf8.ValidString(text): // from !!binary; protobuf does not allow it in a string
		d.refuse(path, "is not UTF-8 text")
	default:
		return text
	}
	return ""
}

// integer accepts all that Kubernetes' tools read as a whole number, including 1.0 and 1e3.
func (d *decoder) integer(path string, node *yaml.Node, bits int, isPort bool) int64 {
	value, err := scalar(node)
	text, isString := value.(string)
	number, isWhole := whole(value)
	switch {
	case err != nil:
		d.refuse(path, "must be a whole number of %d bits; %s is not one", bits, quote(node.Value))
	case isString && isPort: // in Kubernetes, a port may be a name
		d.refuse(path, "is the text %s; %s, without quotes (names are resolved by lifecyclectl and the admission policy)", quote(text), portTakes)
	case !isNumber(value):
		d.refuse(path, "must be a whole number, not %s%s", kindOf(node), braces(text))
	case !isWhole || bits == 32 && int64(int32(number)) != number:
		d.refuse(path, "must be a whole number of %d bits; it is read as %v", bits, value)
	default:
		return number
	}
	return 0
}

// maxExact is the limit up to which a float64 can represent every whole number.
const maxExact = 1 << 53

// whole returns the value as a whole number, and whether it is one.
func whole(value any) (int64, bool) {
	switch number := value.(type) {
	case int:
		return int64(number), true
	case float64:
		return int64(number), math.Trunc(number) == number && math.Abs(number) <= maxExact
	default: // a uint64 is above the maximum of an int64
		return 0, false
	}
}

func isNumber(value any) bool {
	switch value.(type) {
	case int, uint64, float64:
		return true
	}
	return false
}

// scalar returns the value of a node: nil, a bool, an int, a uint64, a float64 or a string.
// It returns nil for a mapping or a list.
func scalar(node *yaml.Node) (any, error) {
	switch {
	case node.Kind != yaml.ScalarNode:
		return nil, nil
	case isText(node):
		return node.Value, nil
	}
	var value any
	err := node.Decode(&value)
	return value, err
}

// isText reports whether the node is a string. Dates are strings, as in YAML 1.2 and in
// Kubernetes.
func isText(node *yaml.Node) bool {
	tag := node.ShortTag()
	return tag == "!!str" || tag == "!!timestamp"
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		if isTemplate(node) {
			return "a mapping; " + templateHint
		}
		return "a mapping"
	}
	switch node.ShortTag() {
	case "!!null":
		return "null"
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	default:
		return "a string"
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
