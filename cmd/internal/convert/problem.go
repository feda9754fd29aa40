package convert

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/oci/bounded"
)

const notUTF8 = "is not UTF-8 text; write the file in UTF-8"

// problem is an error about a line of the document, counted from 1. Line 0 means the whole
// document.
type problem struct {
	line int
	text string
}

func (p problem) Error() string {
	if p.line == 0 {
		return p.text
	}
	return fmt.Sprintf("line %d: %s", p.line, p.text)
}

// finding returns an error as a finding, with the line of the stream.
func (d document) finding(err error) Finding {
	found := Finding{Object: d.name(), Text: err.Error()}
	var known problem
	if errors.As(err, &known) {
		found.Text = known.text
		if known.line > 0 {
			found.Line = d.line + known.line - 1
		}
	}
	return found
}

func notUTF8Line(text []byte) int {
	at := 0
	for at < len(text) {
		char, size := utf8.DecodeRune(text[at:])
		if char == utf8.RuneError && size == 1 {
			break
		}
		at += size
	}
	return 1 + bytes.Count(text[:at], []byte("\n"))
}

// unreadable returns the reason why a document cannot be read, with its line.
func (d document) unreadable(p *parsed, err error) error {
	if at := template.FindIndex(d.text); at != nil {
		return problem{
			1 + bytes.Count(d.text[:at[1]], []byte("\n")),
			`is a template that was not rendered: it has "{{" and is not YAML; render it first (helm template)`,
		}
	}
	line, why := problemOf(err)
	if line == 0 {
		line = d.lineOfProblem(p, why)
	}
	line = min(line, 1+bytes.Count(bytes.TrimRight(d.text, " \r\n"), []byte("\n"))) // the parser may report a line after the text
	var limit *bounded.Error
	if errors.As(err, &limit) && !strings.Contains(limit.Problem, "is not valid YAML") {
		return problem{line, why}
	}
	return problem{line, "is not valid YAML: " + why}
}

// template matches a template's braces at the start of a line or a value. Braces inside a
// text are not a template.
var template = regexp.MustCompile(`(?m)(?:^|[:-])[ \t]*\{\{`)

var (
	yamlProblem = regexp.MustCompile(`^(?:is not valid YAML: )?(?:yaml: )?(?:line (\d+): )?(.*)$`)
	// parserProblem matches errors of the parser, which counts lines from 0. The scanner
	// counts from 1.
	parserProblem = regexp.MustCompile(`^(?:did not find expected (?:key|node content|'-' indicator|<\S+>|',' or)|found (?:undefined|duplicate|incompatible) )`)
	namedAnchor   = regexp.MustCompile(`(?:unknown anchor|anchor) '([^']+)'`)
	noNumber      = regexp.MustCompile(`^[-+]?\.(?i:inf|nan)$`)
)

// problemOf splits a YAML library's error into its line and its text.
func problemOf(err error) (line int, why string) {
	var limit *bounded.Error
	if errors.As(err, &limit) {
		line, err = limit.Line, errors.New(limit.Problem)
	}
	parts := yamlProblem.FindStringSubmatch(shorten.End(shorten.OneLine(err.Error()), bounded.MaxError))
	if parts == nil {
		return line, err.Error()
	}
	if parts[1] != "" {
		line, _ = strconv.Atoi(parts[1])
		if parserProblem.MatchString(parts[2]) {
			line++
		}
	}
	return line, parts[2]
}

// lineOfProblem finds the line of a problem for which the library gives none.
func (d document) lineOfProblem(p *parsed, why string) int {
	if name := namedAnchor.FindStringSubmatch(why); name != nil {
		at := bytes.Index(d.text, []byte("*"+name[1]))
		return 1 + bytes.Count(d.text[:max(at, 0)], []byte("\n"))
	}
	found := firstNode(p.nodes, func(_, node *yaml.Node, isKey bool) bool {
		return isKey && node.Kind != yaml.ScalarNode && node.Kind != yaml.AliasNode ||
			node.Kind == yaml.ScalarNode && node.Style == 0 && noNumber.MatchString(node.Value)
	})
	if found != nil {
		return found.Line
	}
	return 1
}

// firstNode returns the first node for which is reports true, nil if there is none.
func firstNode(from *yaml.Node, is func(parent, node *yaml.Node, isKey bool) bool) *yaml.Node {
	if from == nil {
		return nil
	}
	for i, child := range from.Content {
		if is(from, child, from.Kind == yaml.MappingNode && i%2 == 0) {
			return child
		}
		if found := firstNode(child, is); found != nil {
			return found
		}
	}
	return nil
}

// repeated returns a warning about a key that is there twice, nil if there is none.
func (d document) repeated(p *parsed) *Finding {
	seen := map[*yaml.Node]map[string]bool{}
	key := firstNode(p.nodes, func(parent, node *yaml.Node, isKey bool) bool {
		if !isKey || node.Kind != yaml.ScalarNode || isMerge(node) {
			return false
		}
		if seen[parent] == nil {
			seen[parent] = map[string]bool{}
		}
		was := seen[parent][node.Value]
		seen[parent][node.Value] = true
		return was
	})
	if key == nil {
		return nil
	}
	found := d.finding(problem{key.Line, fmt.Sprintf("the key %s is there twice, and kubectl uses the last one; remove one of them", shorten.Quote(key.Value, 128))})
	return &found
}

// firstDifference returns the pointer to the first value that differs.
func firstDifference(want, got any) pointer {
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			return nil
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if !reflect.DeepEqual(want[key], got[key]) {
				return append(pointer{key}, firstDifference(want[key], got[key])...)
			}
		}
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			return nil
		}
		for i := range want {
			if !reflect.DeepEqual(want[i], got[i]) {
				return append(pointer{strconv.Itoa(i)}, firstDifference(want[i], got[i])...)
			}
		}
	}
	return nil
}

// lineAt returns the line of the deepest node on the path to a pointer.
func lineAt(document *yaml.Node, at pointer) int {
	if document == nil || len(document.Content) == 0 {
		return 1
	}
	node := document.Content[0]
	line := node.Line
	for _, token := range at {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		next, nextLine := childOf(node, token)
		if next == nil {
			return line
		}
		node, line = next, nextLine
	}
	return line
}

// childOf returns the child that a pointer's token names, and the line of its key.
func childOf(node *yaml.Node, token string) (*yaml.Node, int) {
	switch node.Kind {
	case yaml.MappingNode:
		if at := find(node, token); at >= 0 {
			return node.Content[at+1], node.Content[at].Line
		}
	case yaml.SequenceNode:
		if index, err := strconv.Atoi(token); err == nil && index >= 0 && index < len(node.Content) {
			return node.Content[index], node.Content[index].Line
		}
	}
	return nil, 0
}

// locate sets the lines of findings. place returns the pointer to the value that a finding
// is about.
func (d document) locate(p *parsed, place func(Finding) pointer, findings []Finding) {
	for i := range findings {
		if findings[i].Line == 0 {
			findings[i].Line = d.line + lineAt(p.nodes, place(findings[i])) - 1
		}
	}
}

// places returns a function that returns the pointer to the value that a finding is about,
// or to the closest one that is known. It looks for the pod's containers only once.
func (o object) places() func(Finding) pointer {
	var byName map[string]containerPlace
	return func(f Finding) pointer {
		pod, steps := o.at.with(o.pod...), fieldSteps(f.Field)
		if key := annotationOf(f); key != "" {
			return pod.with("metadata", "annotations", key)
		}
		if f.Container == "" {
			if !o.known {
				return o.at.with(steps...)
			}
			return pod.with(steps...)
		}
		spec, _ := o.podTree()["spec"].(map[string]any)
		if byName == nil {
			byName = containerPlaces(spec)
		}
		switch found, there := byName[f.Container]; {
		case !there:
			return pod
		case len(steps) > 0 && found.tree[steps[0]] == nil && spec[steps[0]] != nil:
			return pod.with("spec").with(steps...) // the pod's own field, such as its grace period
		default:
			return pod.with("spec").with(found.at...).with(steps...)
		}
	}
}

type containerPlace struct {
	at   pointer // below the pod's spec
	tree map[string]any
}

// containerPlaces returns a pod's containers by name. If two have the same name it returns
// the first.
func containerPlaces(spec map[string]any) map[string]containerPlace {
	places := map[string]containerPlace{}
	for _, list := range containerLists {
		items, _ := spec[list].([]any)
		for i, item := range items {
			tree, _ := item.(map[string]any)
			name, isText := tree["name"].(string)
			if _, there := places[name]; isText && !there {
				places[name] = containerPlace{pointer{list}.index(i), tree}
			}
		}
	}
	return places
}

// annotationOf returns the key of the annotation that a finding is about, "" if it is about
// something else.
func annotationOf(f Finding) string {
	quoted, _ := strings.CutPrefix(f.Field, "annotation ")
	key, _ := strconv.Unquote(quoted)
	return key
}

// fieldSteps splits a path such as a.b[1] into its steps.
func fieldSteps(field string) []string {
	return strings.FieldsFunc(field, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}
