package bounded

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// small limits allow short examples.
var small = Limits{Bytes: 200, Nodes: 20, Depth: 3, Decoded: 40}

func TestRead(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		says string // part of the error; empty if the text is accepted
	}{
		"nothing":                           {"", ""},
		"a comment":                         {"# a", ""},
		"bytes, the most":                   {"a #" + strings.Repeat("x", 197), ""},
		"bytes, one more":                   {"a #" + strings.Repeat("x", 198), "is 201 bytes long; at most 200 are allowed"},
		"not UTF-8":                         {"\xff", "is not UTF-8 text"},
		"depth, the most":                   {"a: [[b]]", ""},
		"depth, one more":                   {"a: b\nc: [[[d]]]", "has more than 3 mappings and lists within one another (line 2)"},
		"depth of an empty list":            {"[[[[]]]]", "has more than 3 mappings and lists within one another (line 1)"},
		"depth of an empty item":            {"- [[[]]]", "has more than 3 mappings and lists within one another (line 1)"},
		"depth in JSON, the most":           {`{"a": [[1]]}`, ""},
		"depth in JSON, one more":           {"{\n\"a\": [[[1]]]}", "has more than 3 mappings and lists within one another (line 2)"},
		"depth by aliases, the most":        {"- &a [b]\n- [*a]", ""},
		"depth by a wide alias":             {"- &a [[b], c]\n- *a", ""},
		"depth by a wide alias, one":        {"- &a [[b], c]\n- [*a]", "has more than 3 mappings and lists within one another (line 2)"},
		"depth by two aliases":              {"- &a [b]\n- &c [*a]\n- [*c]", "has more than 3 mappings and lists within one another (line 3)"},
		"depth by aliases":                  {"- &a [b]\n- [[*a]]", "has more than 3 mappings and lists within one another (line 2)"},
		"nodes, the most":                   {"[" + strings.Repeat("a,", 19) + "]", ""},
		"nodes by implicit values":          {"{a,b,c,d,e,f,g,h,i,j}", "holds more than 20 values, with aliases and merge keys (<<) written out (line 1)"},
		"nodes in JSON, the most":           {"[" + strings.Repeat("1,", 18) + "1]", ""},
		"nodes in JSON, one more":           {"[\n" + strings.Repeat("1,", 19) + "1]", "holds more than 20 values, with aliases and merge keys (<<) written out (line 2)"},
		"nodes by aliases, the most":        {"- &a [1,1,1,1,1,1,1,1]\n- *a", ""},
		"nodes by aliases, one more":        {"- &a [1,1,1,1,1,1,1,1,1]\n- *a", "holds more than 20 values, with aliases and merge keys (<<) written out (line 2)"},
		"marks, one more":                   {"'" + strings.Repeat(",", 21) + "'", "has more than 20 of the characters that can begin"},
		"marks of comments":                 {"a" + strings.Repeat(" #", 10), ""},
		"marks of comments, more":           {"a" + strings.Repeat(" #", 11), "has more than 20 of the characters that can begin"},
		"marks, all kinds":                  {"'" + strings.Repeat(",[{:?- -\t", 3) + "'", "has more than 20"},
		"marks, a dash at a letter":         {strings.Repeat("-\u00e4", 21), "has more than 20"},
		"marks, a dash at DEL":              {"'" + strings.Repeat("-~", 21) + "'", "has more than 40 bytes"},
		"marks, a dash in a word":           {"'" + strings.Repeat("a-b", 21) + "'", "has more than 40 bytes"},
		"marks, a dash at the end":          {strings.Repeat("- ", 20) + "-", "has more than 20"},
		"marks, a dash at a line":           {strings.Repeat("-\n", 21), "has more than 20"},
		"marks, a dash at odd lines":        {strings.Repeat("-\u2028", 21), "has more than 20"},
		"marks, the most":                   {"'" + strings.Repeat(",", 20) + "'", ""},
		"marks in JSON are text":            {`["` + strings.Repeat(",", 40) + `"]`, ""},
		"decoded, the most":                 {"[" + strings.Repeat("x", 40) + "]", ""},
		"decoded, one more":                 {"\n[" + strings.Repeat("x", 41) + "]", "has more than 40 bytes when it is decoded, with aliases and merge keys (<<) written out (line 2)"},
		"decoded, a scalar":                 {strings.Repeat("x", 41), "has more than 40 bytes when it is decoded"},
		"decoded, keys":                     {strings.Repeat("x", 20) + ": " + strings.Repeat("x", 21), "has more than 40 bytes when it is decoded"},
		"decoded by aliases":                {"- &a " + strings.Repeat("x", 20) + "\n- *a", ""},
		"decoded by aliases, more":          {"- &a " + strings.Repeat("x", 20) + "\n- *a\n- b", "has more than 40 bytes when it is decoded, with aliases and merge keys (<<) written out (line 3)"},
		"decoded by merges":                 {"- &a {b: " + strings.Repeat("x", 20) + "}\n- {<<: *a}", "has more than 40 bytes when it is decoded, with aliases and merge keys (<<) written out (line 2)"},
		"an alias of itself":                {"&a [*a]", `is not valid YAML: the value of the anchor "a" contains itself (line 1)`},
		"a merge of itself":                 {"&a\n<<: *a", `contains itself (line 2)`},
		"a key of itself":                   {"&a {*a : b}", "contains itself"},
		"an anchor used again":              {"- &a b\n- &a [*a]", "contains itself"},
		"an anchor of before":               {"- &a b\n- *a\n- &a c\n- *a", ""},
		"a key twice":                       {"a: 1\nb:\n  a: 1\n  a: 2", `is not valid YAML: line 4: mapping key "a" already defined at line 3`},
		"a key twice, by an alias":          {"- &a b\n- b: 1\n  *a : 1", `mapping key "b" already defined at line 2`},
		"a key twice in JSON":               {"{\"a\": 1,\n\n\"a\": 2}", `line 3: mapping key "a" already defined at line 1`},
		"a key of two types":                {"1: a\n'1': b", `mapping key "1" already defined at line 1`},
		"a merge key twice":                 {"<<: {a: b}\n<<: {c: d}", `mapping key "<<" already defined at line 1`},
		"a key in a merge too":              {"a: b\n<<: {a: c}", ""},
		"a merge of a text":                 {"<<: a", "is not valid YAML: line 1: a merge key (<<) takes a mapping or a list of mappings"},
		"a merge of a list of lists":        {"<<: [{a: b}, [c]]", "a merge key (<<) takes a mapping or a list of mappings"},
		"a merge of a list":                 {"<<: [{a: b}, {c: d}]", ""},
		"a merge of a list's alias":         {"- &a [{a: b}]\n- <<: *a", "a merge key (<<) takes a mapping or a list of mappings"},
		"a merge key in quotes":             {"'<<': a", ""},
		"complex keys":                      {"? [a]\n: b\n? [a]\n: c", ""},
		"two documents":                     {"a\n--- \nb", "holds more than one YAML document; one is allowed (line 2)"},
		"two documents, one broken":         {"a\n---\n{", "is not valid YAML: yaml: line 3: did not find expected node content"},
		"two documents, one broken far off": {"a\n---\nb: c\nd: e\nf: }", "is not valid YAML: yaml: line 4: did not find expected node content"},
		"an unknown anchor":                 {"*a", "is not valid YAML: yaml: unknown anchor 'a' referenced"},
		"a %TAG directive":                  {"%TAG !a! b\n---\n!a!c d", "has a %TAG directive, which is not supported"},
		"a directive behind others":         {"# a\r%TAG !a! b\n---\n!a!c d", "has a %TAG directive"},
		"a directive behind a mark":         {"\ufeff%TAG !a! b\n---\n!a!c d", "has a %TAG directive"},
		"%TAG in a text":                    {"a: |\n  %TAG\nb: x%TAG", ""},
		"a %YAML directive":                 {"%YAML 1.1\n---\na", ""},
	} {
		t.Run(name, func(t *testing.T) {
			document, err := Read(test.text, small)
			if test.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				Expand(document)
				return
			}
			checkError(t, err, test.says)
		})
	}
}

func checkError(t *testing.T, err error, says string) {
	t.Helper()
	var one *Error
	if !errors.As(err, &one) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("%q does not contain %q", err, says)
	}
	if hasLine := strings.HasSuffix(err.Error(), fmt.Sprintf(" (line %d)", one.Line)); hasLine != (one.Line > 0) || strings.HasPrefix(one.Problem, "is not valid YAML: line") && hasLine {
		t.Errorf("line %d: %q", one.Line, err)
	}
	if len(err.Error()) > MaxError || strings.Contains(err.Error(), "\n") || !utf8.ValidString(err.Error()) {
		t.Errorf("%d bytes: %q", len(err.Error()), err)
	}
}

// TestErrorsAreBounded: everything that an error quotes may be as long as the text.
func TestErrorsAreBounded(t *testing.T) {
	long := strings.Repeat("\U0001F600", 10_000)
	for _, text := range []string{
		long + ": 1\n" + long + ": 2", "*" + strings.Repeat("a", 60_000), "&" + strings.Repeat("a", 20_000) + " [*" + strings.Repeat("a", 20_000) + "]",
		"!!int " + long, "%" + strings.Repeat("A", 60_000) + "\n---\na", "!" + strings.Repeat("a", 60_000) + "!b c",
		`{"` + strings.Repeat(`\u0001`, 5_000) + `": 1, "` + strings.Repeat(`\u0001`, 5_000) + `": 1}`,
	} {
		if _, err := Read(text, Annotation); err != nil {
			checkError(t, err, "")
		}
	}
	long = strings.Repeat("x", 5000)
	for want, err := range map[string]*Error{
		strings.Repeat("x", 485) + "… (line 7)": {Problem: long, Line: 7},
		strings.Repeat("x", 509) + "…":          {Problem: long},
		"a (line 1)":                            {Problem: "a", Line: 1},
		"a":                                     {Problem: "a"},
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
	for text, want := range map[string]string{
		"&" + long + " [*" + long + "]": `is not valid YAML: the value of the anchor "` + strings.Repeat("x", 59) + `…" contains itself (line 1)`,
		long + ": 1\n" + long + ": 2":   "", // YAML limits the length of a simple key
		"? " + long + "\n? " + long:     `is not valid YAML: line 2: mapping key "` + strings.Repeat("x", 123) + `…" already defined at line 1`,
	} {
		if _, err := Read(text, Annotation); want != "" && (err == nil || err.Error() != want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestReadJSON: the nodes of JSON are those of the YAML parser for the same text.
func TestReadJSON(t *testing.T) {
	text := "{\n \"a\": [1, -2.5e3, true,\n  false, null], \"größe\": {\"b\": \"c\"}, \"d\" :\"e\"}"
	ours, err := Read(text, small)
	if err != nil {
		t.Fatal(err)
	}
	var theirs yaml.Node
	if err := yaml.Unmarshal([]byte(text), &theirs); err != nil {
		t.Fatal(err)
	}
	if got, want := dump(ours), dump(&theirs); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	ours, err = Read(`["\ud83d\ude00 \\ud83d", "`+"\u2028\x7f\ufeff"+`", "\u0000\/"]`, small)
	if err != nil || ours.Content[0].Content[0].Value != `😀 \ud83d` || ours.Content[0].Content[1].Value != "\u2028\x7f\ufeff" ||
		ours.Content[0].Content[2].Value != "\x00/" {
		t.Errorf("%v:\n%s", err, dump(ours))
	}
}

func dump(node *yaml.Node) string {
	text := fmt.Sprintf("%d:%d %d %s %q %d\n", node.Line, node.Column, node.Kind, node.Tag, node.Value, node.Style)
	for _, child := range node.Content {
		text += dump(child)
	}
	return text
}

func TestExpand(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "null",
		"# a":                                 "null",
		"a: b":                                "{a: b}",
		"- &a b\n- *a":                        "[b, b]",
		"- &a [b, &c d]\n- [*a, *c]":          "[[b, d], [[b, d], d]]",
		"- &a b\n- {*a : c}":                  "[b, {b: c}]",
		"- &a {b: c, d: e}\n- {<<: *a, b: f}": "[{b: c, d: e}, {b: f, d: e}]",
		"- &a {b: c, d: e}\n- {b: f, <<: *a}": "[{b: c, d: e}, {b: f, d: e}]",
		"{<<: [{a: 1}, {a: 2, b: 2}], c: 3}":  "{a: 1, b: 2, c: 3}",
		"- &a {b: 1}\n- &c {<<: *a, d: 2}\n- {<<: *c, e: 3}":  "[{b: 1}, {b: 1, d: 2}, {b: 1, d: 2, e: 3}]",
		"- &a {b: 1}\n- &m <<\n- {*m : *a}":                   "[{b: 1}, <<, {b: 1}]",
		"- &a {b: 1}\n- {<<: [*a, {<<: {c: 2, b: 3}}], d: 4}": "[{b: 1}, {b: 1, c: 2, d: 4}]",
		"'<<': {a: b}": "{'<<': {a: b}}",
	} {
		document, err := Read(text, Annotation)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		checkExpanded(t, Expand(document), Annotation.Depth)
		before := ""
		if document != nil {
			before = dump(document)
		}
		var got, expected any
		if value := Expand(document); value != nil {
			err = value.Decode(&got)
		}
		if err != nil || yaml.Unmarshal([]byte(want), &expected) != nil || !reflect.DeepEqual(got, expected) {
			t.Errorf("%q is %v, want %v (%v)", text, got, expected, err)
		}
		if document != nil && dump(document) != before {
			t.Errorf("%q: the document has changed", text)
		}
	}
}

// checkExpanded fails if a node contains an alias or a merge key.
func checkExpanded(t *testing.T, node *yaml.Node, depth int) {
	t.Helper()
	if node == nil {
		return
	}
	if node.Kind == yaml.AliasNode || depth < 0 {
		t.Errorf("%d:%d is not expanded", node.Line, node.Column)
	}
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 && isMerge(child) {
			t.Errorf("%d:%d is a merge key", child.Line, child.Column)
		}
		checkExpanded(t, child, depth-1)
	}
}

// TestExpandShares: nodes without aliases are not copied, and those with aliases are copied
// once.
func TestExpandShares(t *testing.T) {
	read := func(text string) *yaml.Node {
		document, err := Read(text, Annotation)
		if err != nil {
			t.Fatal(err)
		}
		return document
	}
	document := read("a: [b, {c: d}]")
	if Expand(document) != document.Content[0] {
		t.Error("a document without aliases is copied")
	}
	value := Expand(read("- &a b\n- &c {d: [*a]}\n- *c\n- *c\n- [x]"))
	if value.Content[1] != value.Content[2] || value.Content[2] != value.Content[3] {
		t.Error("what two aliases name is copied twice")
	}
	if value.Content[0].Value != "b" || value.Content[1].Anchor != "" || value.Anchor != "" {
		t.Errorf("got\n%s", dump(value))
	}
	document = read("? !!merge [a]\n: b\n? {c: d}\n: e")
	if Expand(document) != document.Content[0] {
		t.Error("a list with the tag of a merge key is taken for one")
	}
	if Expand(&yaml.Node{Kind: yaml.DocumentNode}) != nil || Expand(nil) != nil {
		t.Error("nothing has a value")
	}
	merged := Expand(read("- &a {? {b: c} : d}\n- {<<: [*a, *a], e: f}")).Content[1]
	if len(merged.Content) != 6 || merged.Content[0].Value != "e" || merged.Content[2].Kind != yaml.MappingNode {
		t.Errorf("got\n%s", dump(merged))
	}
	if merged := Expand(read("- &a {g: h, e: g}\n- {<<: *a, e: f, b: g}")).Content[1]; len(merged.Content) != 6 || merged.Content[4].Value != "g" {
		t.Errorf("got\n%s", dump(merged))
	}
	if items := Expand(read("[<<, a]")).Content; len(items) != 2 {
		t.Error("<< in a list is taken for a merge key")
	}
}

// TestJSONStops: parsing of JSON stops at the limits.
func TestJSONStops(t *testing.T) {
	for text, says := range map[string]string{
		"[" + strings.Repeat("1,", 20) + `"a","a"]`: "holds more than 20 values", "[[[[" + strings.Repeat("1,", 10) + "1]]]]": "has more than 3 mappings",
	} {
		_, err := parseJSON(text, small)
		checkError(t, err, says)
	}
	for _, text := range []string{"[" + strings.Repeat("1,", 18) + "1]", `[[[1],[2]],[[3]],{"a":{}}]`} {
		if _, err := parseJSON(text, small); err != nil {
			t.Error(err)
		}
	}
	tagged, err := Read(`[1e400, 12345678901234567890123, 1E2, 1.5]`, small)
	if err != nil {
		t.Fatal(err)
	}
	for i, node := range tagged.Content[0].Content {
		if want := []string{"!!float", "!!int", "!!float", "!!float"}[i]; node.Tag != want {
			t.Errorf("%s has the tag %s", node.Value, node.Tag)
		}
	}
}

// TestRepeatedKeys: with Repeated, as kubectl's reader, invalid merge keys are still refused.
func TestRepeatedKeys(t *testing.T) {
	limits := small
	limits.Repeated = true
	for text, says := range map[string]string{"a: 1\na: 2": "", `{"a": 1, "a": 2}`: "", "a: 1\na: 2\n<<: b": "a merge key (<<) takes a mapping"} {
		_, err := Read(text, limits)
		if says == "" && err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if says != "" {
			checkError(t, err, says)
		}
	}
}
