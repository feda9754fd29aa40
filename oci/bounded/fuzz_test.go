package bounded

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// FuzzRead: accepted texts are within the limits, and have the same value as in the YAML
// library. The errors of refused ones are within MaxError.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"", "# a", "a: [b, {c: d}]", `{"a": [1, 2.5, null, true, "\u00e4"]}`, "- &a {b: c}\n- {<<: *a, d: e}\n- *a", "<<: [{a: 1}, {a: 2}]", "&a [*a]",
		"? [a]\n: b", "? a\n? b\n", "{a, b: , ? c}", "[a: b, : c]", "|\n a\n", "- - - a", "%TAG ! b\n---\na", "a\n---\nb", "!!int 5", "!<x> y", "'a,b:[{#'",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		document, err := Read(text, Annotation)
		var one *Error
		if err != nil && (!errors.As(err, &one) || len(err.Error()) > MaxError || strings.Contains(err.Error(), "\n")) {
			t.Fatalf("%d bytes: %v", len(err.Error()), err)
		}
		if err != nil || document == nil {
			return
		}
		value := Expand(document)
		if nodes, bytes := count(value, Annotation.Depth+1); nodes > Annotation.Nodes || bytes > Annotation.Decoded {
			t.Fatalf("%d nodes, %d bytes", nodes, bytes)
		}
		if nodes, _ := count(document.Content[0], 1<<20); nodes > 3*marks(text)+3 {
			t.Fatalf("%d nodes by %d marks", nodes, marks(text))
		}
		var ours, theirs any
		// Decode refuses invalid base64, and a mapping as a key. How a key that is not a string
		// is merged depends on the mapping's own keys.
		if document.Decode(&theirs) != nil || !textKeys(value) {
			return
		}
		if err := value.Decode(&ours); err != nil || !reflect.DeepEqual(ours, theirs) && !strings.Contains(strings.ToLower(text), ".nan") {
			t.Fatalf("%v (%v), want %v", ours, err, theirs)
		}
	})
}

func textKeys(node *yaml.Node) bool {
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 && child.ShortTag() != "!!str" || !textKeys(child) {
			return false
		}
	}
	return true
}

// count returns how many nodes a value has and how many bytes their scalars have. It does
// not follow aliases.
func count(node *yaml.Node, depth int) (nodes, bytes int) {
	if depth == 0 {
		panic("too deep")
	}
	nodes, bytes = 1, len(node.Value)
	for _, child := range node.Content {
		n, b := count(child, depth-1)
		nodes, bytes = nodes+n, bytes+b
	}
	return nodes, bytes
}
