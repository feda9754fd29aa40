package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/lifecycle-shim/lifecycle-shim/internal/podgen"
)

// region is what a conversion may remove: from a key to the next node behind its value.
// It is computed here from the nodes alone, not from what the editor found in the text.
type region struct {
	key, next   *yaml.Node // next is nil at the end of the document
	first, last int        // lines, from 1
}

// regionsOf returns what the operations remove.
func regionsOf(t *testing.T, text []byte, document *yaml.Node, operations []Operation) []region {
	t.Helper()
	var order []*yaml.Node
	var flatten func(*yaml.Node)
	flatten = func(node *yaml.Node) {
		order = append(order, node)
		for _, child := range node.Content {
			flatten(child)
		}
	}
	flatten(document.Content[0])
	var regions []region
	for _, operation := range operations {
		if operation.Op != "remove" {
			continue
		}
		mapping, name := document.Content[0], operation.at[len(operation.at)-1]
		for _, token := range operation.at[:len(operation.at)-1] {
			mapping, _ = childOf(mapping, token)
			if mapping == nil || mapping.Kind == yaml.AliasNode {
				return nil
			}
		}
		if find(mapping, name) < 0 {
			return nil // it is shared
		}
		for at := 0; at < len(mapping.Content); at += 2 { // a key may be there twice: each entry goes
			if mapping.Content[at].Value == name {
				regions = append(regions, regionOf(text, order, mapping.Content[at], mapping.Content[at+1]))
			}
		}
	}
	return regions
}

// regionOf returns the region of an entry. order is that of all nodes in the text.
func regionOf(text []byte, order []*yaml.Node, key, value *yaml.Node) region {
	within := 0
	var count func(*yaml.Node)
	count = func(node *yaml.Node) {
		within++
		for _, child := range node.Content {
			count(child)
		}
	}
	count(key)
	count(value)
	found := region{key: key, first: key.Line, last: bytes.Count(text, []byte("\n")) + 1}
	if next := slices.Index(order, key) + within; next < len(order) {
		found.next = order[next]
		found.last = found.next.Line - 1
	}
	return found
}

// added matches a line that a conversion adds.
var added = regexp.MustCompile(`^\s*(?:- )*["']?(?:[a-z0-9-]+\.lifecycle-shim\.io/lifecycle["']?: ?['"]|metadata["']?: ?\{?$|annotations["']?: ?\{?$|runtimeClassName["']?: ?"?` + class + `)|^\s*\},?$`)

// emptied are keys whose empty value may become one with the annotations.
var emptied = regexp.MustCompile(`(?:metadata|annotations|runtimeClassName)["']?:`)

// wantUnedited holds a result to the promise that every byte that is not part of a move is
// the same: every line of the original that is not in a region has to be in the result, in
// order, and there is nothing else in the result but what a conversion writes.
func wantUnedited(t *testing.T, text, result []byte, regions []region) {
	t.Helper()
	lines, got := strings.SplitAfter(string(text), "\n"), strings.SplitAfter(string(result), "\n")
	removable := map[int]bool{}
	for _, r := range regions {
		for line := r.first; line <= r.last; line++ {
			removable[line] = true
		}
	}
	at := 0
	extra := func(line string) {
		if !added.MatchString(strings.TrimRight(line, "\r\n")) && strings.TrimSpace(line) != "" {
			t.Fatalf("a line is new: %q\nin %s\nof %s", line, result, text)
		}
	}
	for i, line := range lines {
		next := at
		for next < len(got) && strings.TrimRight(got[next], "\r\n") != strings.TrimRight(line, "\r\n") {
			next++
		}
		if next == len(got) {
			if removable[i+1] || strings.TrimSpace(line) == "" || emptied.MatchString(line) && bytes.Count(text, []byte("\n")) > 0 {
				continue // the line may be changed or gone
			}
			t.Fatalf("line %d is gone: %q\nin %s\nof %s", i+1, line, result, text)
		}
		if removable[i+1] && next > at {
			continue
		}
		for _, skipped := range got[at:next] {
			extra(skipped)
		}
		if got[next] != line && !removable[i+1] && i+1 < len(lines) && next+1 < len(got) {
			t.Fatalf("line %d ends in another way: %q, %q", i+1, line, got[next])
		}
		at = next + 1
	}
	for _, line := range got[min(at, len(got)):] {
		extra(line)
	}
}

// inLines reports whether the removed text consists of whole lines, the next node begins on
// another line, and nothing is in braces: only then can lines be compared.
func inLines(text []byte, document *yaml.Node, regions []region, operations []Operation) bool {
	lines := strings.Split(string(text), "\n")
	for _, r := range regions {
		if r.next != nil && r.next.Line == r.key.Line || r.first > len(lines) {
			return false
		}
		line := []rune(lines[r.first-1])
		if r.key.Column-1 > len(line) || strings.TrimSpace(string(line[:r.key.Column-1])) != "" {
			return false
		}
	}
	for _, operation := range operations {
		node := document.Content[0]
		for _, token := range append(pointer{}, operation.at...) {
			if node == nil {
				break // it is added
			}
			if node.Kind == yaml.AliasNode || node.Style&yaml.FlowStyle != 0 {
				return false
			}
			node, _ = childOf(node, token)
		}
	}
	return len(regions) > 0 && !bytes.ContainsAny(text, "\u0085\u2028\u2029") && !regexp.MustCompile(`\r[^\n]`).Match(text)
}

// rest is a text without its regions, without what a conversion adds, and without what is
// between the values of a text in braces. Quotes, escapes and the order stay in it.
func rest(text []byte, isJSON bool, regions []region) string {
	offsets := lineStarts(text, isJSON)
	place := func(node *yaml.Node) int {
		return offsets[node.Line-1] + len(string([]rune(string(text[offsets[node.Line-1]:]))[:node.Column-1]))
	}
	left := append([]byte{}, text...)
	for _, r := range regions {
		end := len(left)
		if r.next != nil {
			end = place(r.next)
		}
		for i := place(r.key); i < end; i++ {
			left[i] = ' '
		}
	}
	return strings.TrimSuffix(strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\r\n,{}[]-", r) {
			return -1
		}
		return r
	}, written.ReplaceAllString(string(left), "")), "...")
}

// written is what a conversion adds to a text in braces, and the empty values in its place.
var written = regexp.MustCompile(`"?[a-z0-9-]+\.lifecycle-shim\.io/lifecycle"?:\s*(?:'(?:[^']|'')*'|"(?:[^"\\]|\\.)*")|["']?runtimeClassName["']?:\s*(?:["']?` + class + `["']?|null|~)|["']?(?:metadata|annotations)["']?:?(?:\s*(?:null|~))?`)

// checkUnedited converts one document, and holds the result to equal meaning and to
// unedited bytes. It reports whether the text was edited.
func checkUnedited(t *testing.T, text []byte) (edited bool) {
	t.Helper()
	documents := split(text)
	if len(documents) != 1 {
		return false
	}
	d := documents[0]
	p, err := d.read()
	if err != nil || p.tree == nil || p.nodes == nil {
		return false
	}
	operations := operationsOf(p.tree)
	result, report := Stream(text, inClass)
	if len(report.Refusals) > 0 || report.Moved == 0 {
		return false
	}
	wantMeaning(t, d, operations, result)
	for _, warning := range report.Warnings {
		if strings.Contains(warning.Text, "is rewritten") {
			return false
		}
	}
	regions := regionsOf(t, d.text, p.nodes, operations)
	if inLines(d.text, p.nodes, regions, operations) {
		wantUnedited(t, d.text, result[len(d.separator):], regions)
	} else if len(regions) > 0 && !bytes.ContainsRune(text, '#') && !bytes.Contains(text, []byte("lifecycle-shim.io")) && !bytes.Contains(text, []byte("!!null")) {
		after := rest(result[len(d.separator):], d.json, nil)
		if before := rest(d.text, d.json, regions); before != after {
			t.Fatalf("before it was\n%s\nand after\n%s\nof %s\nin %s", before, after, text, result)
		}
	}
	return true
}

func operationsOf(tree map[string]any) []Operation {
	var operations []Operation
	for _, o := range objects(tree, "") {
		operations = append(operations, convertObject(&Report{}, inClass, o)...)
	}
	return operations
}

// wantMeaning: kubectl reads in the result what the patch makes of what it read before.
func wantMeaning(t *testing.T, d document, operations []Operation, result []byte) {
	t.Helper()
	before, err := d.meaning(d.text)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := decodeObject(patch(t, before, operations))
	meaning, err := d.meaning(result)
	if err != nil {
		t.Fatalf("%v in %s", err, result)
	}
	if got, ok := decodeObject(meaning); !ok || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %s, want %s, of %s", meaning, want, d.text)
	}
}

// FuzzUnedited: in any document a conversion changes only the bytes of what moves, and the
// result means the patched original (FAULTS B3).
func FuzzUnedited(f *testing.F) {
	for _, pattern := range []string{"testdata/*.in.*", "testdata/public/*.yaml"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			for _, d := range split(text) {
				f.Add(d.text)
			}
		}
	}
	for seed := range uint64(8) {
		f.Add(podgen.JSON(seed))
	}
	for _, style := range styleCases {
		f.Add([]byte(style.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		checkUnedited(t, text)
	})
}

// styleCase is a document in a style that a printer would change, and the diff of its
// conversion: lines that go, and lines that come.
type styleCase struct{ name, text, diff string }

const sleepAnnotation = `a.lifecycle-shim.io/lifecycle: '{"preStop":{"sleep":{"seconds":1}},"terminationGracePeriodSeconds":30}'`

// styleCases are the styles of FAULTS B3 and more of the kind. %s is where the rest of the
// container stands.
var styleCases = []styleCase{
	{
		name: "a folded scalar with a line that is indented further",
		text: "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n  - name: a\n    args:\n    - >\n\n     a\n\n        b\n    - >+\n     c\n\n    lifecycle:\n      preStop: {sleep: {seconds: 1}}\n",
		diff: "+  annotations:\n+    " + sleepAnnotation + "\n+  runtimeClassName: lifecycle\n-    lifecycle:\n-      preStop: {sleep: {seconds: 1}}\n",
	},
	{
		name: "an indentation of 4, and a literal that begins with an empty line",
		text: "apiVersion: v1\nkind: Pod\nmetadata:\n    name: p\nspec:\n    containers:\n        -   name: a\n            command:\n                - sh\n                - -c\n                - |\n\n                    echo  \n                      b\t\n            lifecycle:\n                preStop:\n                    sleep:\n                        seconds: 1\n            image: x\n",
		diff: "+    annotations:\n+        " + sleepAnnotation + "\n+    runtimeClassName: lifecycle\n-            lifecycle:\n-                preStop:\n-                    sleep:\n-                        seconds: 1\n",
	},
	{
		name: "the tag of what has no other",
		text: "apiVersion: v1\nkind: Pod\nmetadata:\n  name: ! 5\nspec:\n  containers:\n  - lifecycle:\n      preStop:\n        sleep: {seconds: 1}\n    name: a\n    env: [{name: X, value: ! 5}]\n",
		diff: "+  annotations:\n+    " + sleepAnnotation + "\n+  runtimeClassName: lifecycle\n-  - lifecycle:\n-      preStop:\n-        sleep: {seconds: 1}\n-    name: a\n+  - name: a\n",
	},
	{
		name: "old line ends, and no end of the last line",
		text: "apiVersion: v1\r\nkind: Pod\r\nspec:\r\n  containers:\r\n  - name: a\r\n\r\n    # why\r\n    lifecycle: # how\r\n      preStop:\r\n        sleep:\r\n          seconds: 1 # long\r\n        # enough\r\n\r\n    # what follows\r\n    image:   x",
		diff: "+metadata:\r\n+  annotations:\r\n+    " + sleepAnnotation + "\r\n+  runtimeClassName: lifecycle\r\n-    lifecycle: # how\r\n-      preStop:\r\n-        sleep:\r\n-          seconds: 1 # long\r\n-        # enough\r\n",
	},
	{
		name: "comments, empty lines, lists that are not indented, null",
		text: "# top\napiVersion: v1\nkind: Pod # a pod\nmetadata:\n  name: p\n  annotations: # none\n  # last\n\nspec:\n  # which\n  containers:\n  # first\n  -  name: a   \n     lifecycle:\n       preStop:\n         sleep:\n           seconds: 1\n\n  # end\n",
		diff: "+    " + sleepAnnotation + "\n+  runtimeClassName: lifecycle\n-     lifecycle:\n-       preStop:\n-         sleep:\n-           seconds: 1\n",
	},
	{
		name: "braces, one in lines",
		text: "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: b}} # one\nspec: {\n  containers: [\n    { name: a, # name\n      lifecycle: { preStop: {sleep: {seconds: 1}} }, # gone\n      image: 'x' },\n  ],\n}\n",
		diff: "-metadata: {name: p, labels: {a: b}} # one\n+metadata: {name: p, labels: {a: b}, annotations: {" + sleepAnnotation + "}} # one\n+  runtimeClassName: lifecycle,\n-      lifecycle: { preStop: {sleep: {seconds: 1}} }, # gone\n",
	},
	{
		name: "empty braces",
		text: "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: {}\n  name: p\nspec:\n  containers:\n  - {name: a, lifecycle: {preStop: {sleep: {seconds: 1}}}}\n",
		diff: "-  annotations: {}\n+  annotations: {" + sleepAnnotation + "}\n+  runtimeClassName: lifecycle\n-  - {name: a, lifecycle: {preStop: {sleep: {seconds: 1}}}}\n+  - {name: a}\n",
	},
	{
		name: "a signal that stays, and long keys",
		text: "apiVersion: v1\nkind: Pod\nmetadata:\n    annotations:\n        ? x/" + strings.Repeat("y", 130) + "\n        : \"z\"\nspec:\n   containers:\n     - name: a\n       lifecycle:\n           stopSignal: \"SIGQUIT\"\n           preStop:\n             sleep:\n               seconds: 1\n           # SIGQUIT is what it wants\n",
		diff: "+        " + strings.Replace(sleepAnnotation, `,"term`, `,"stopSignal":"SIGQUIT","term`, 1) + "\n+   runtimeClassName: lifecycle\n-           preStop:\n-             sleep:\n-               seconds: 1\n",
	},
	{
		name: "an anchor that two containers share",
		text: "apiVersion: v1\nkind: Pod\nmetadata: &m\n  name: p\nspec:\n  containers:\n  - &a\n    name: a\n    lifecycle: &l {preStop: {sleep: {seconds: 1}}}\n  - name: b\n    lifecycle: *l\n  - <<: *a\n    name: c\n",
		diff: "+  annotations:\n+    " + sleepAnnotation + "\n+    b" + sleepAnnotation[1:] + "\n+    c" + sleepAnnotation[1:] + "\n+  runtimeClassName: lifecycle\n-    lifecycle: &l {preStop: {sleep: {seconds: 1}}}\n-    lifecycle: *l\n",
	},
}

// TestStyleCases: FAULTS B3. A document's style is no reason to refuse it, or to change
// anything but what moves.
func TestStyleCases(t *testing.T) {
	for _, test := range styleCases {
		t.Run(test.name, func(t *testing.T) {
			for _, prefix := range []string{"", byteOrderMark, "# c\n---\n"} {
				result, report := Stream([]byte(prefix+test.text), inClass)
				if len(report.Refusals)+len(report.Warnings) > 0 {
					t.Fatalf("got %v, %v", report.Refusals, report.Warnings)
				}
				if got := lineDiff(prefix+test.text, string(result)); got != test.diff {
					t.Errorf("got\n%s\nwant\n%s", got, test.diff)
				}
			}
			if !checkUnedited(t, []byte(test.text)) {
				t.Error("it is not edited")
			}
		})
	}
}

// lineDiff lists the lines that one text has and the other does not, in their order.
func lineDiff(before, after string) string {
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	// length of the longest common subsequence from i and j on
	length := make([][]int, len(a)+1)
	for i := range length {
		length[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if length[i][j] = max(length[i+1][j], length[i][j+1]); a[i] == b[j] {
				length[i][j] = length[i+1][j+1] + 1
			}
		}
	}
	var diff strings.Builder
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || length[i+1][j] >= length[i][j+1]):
			fmt.Fprintf(&diff, "-%s", a[i])
			i++
		default:
			fmt.Fprintf(&diff, "+%s", b[j])
			j++
		}
	}
	return diff.String()
}

// TestShared: if the text cannot be edited because something that stays shares a handler,
// the document is rewritten, and its line and the reason are reported.
func TestShared(t *testing.T) {
	const text = "kind: Service\napiVersion: v1\n---\n# c\napiVersion: v1\nkind: List\nx: &l\n  preStop: {sleep: {seconds: 1}}\n  stopSignal: SIGHUP\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: p}\n" +
		"  spec:\n    containers:\n    - name: a\n      lifecycle: *l\n---\nkind:   Service\n"
	result, report := Stream([]byte(text), inClass)
	if len(report.Refusals) > 0 || report.Moved != 1 || len(report.Warnings) != 1 {
		t.Fatalf("got %v, %v", report.Refusals, report.Warnings)
	}
	warning := report.Warnings[0]
	if warning.Line != 17 || !strings.Contains(warning.Text, "is rewritten, because its text cannot be edited: an alias or a merge key shares what would change") {
		t.Errorf("got line %d: %s", warning.Line, warning)
	}
	if !strings.HasPrefix(string(result), "kind: Service\napiVersion: v1\n---\n# c\napi") || !strings.HasSuffix(string(result), "\n---\nkind:   Service\n") {
		t.Errorf("got %s", result)
	}
	var list struct {
		X     any `json:"x"`
		Items []podForm
	}
	meaning, err := split(result)[1].meaning(split(result)[1].text)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(meaning, &list); err != nil {
		t.Fatal(err)
	}
	if got := list.Items[0].Spec.Containers[0].Lifecycle; list.X == nil || len(got) != 1 || got["stopSignal"] != "SIGHUP" {
		t.Errorf("got %v, %v", list.X, got)
	}
}
