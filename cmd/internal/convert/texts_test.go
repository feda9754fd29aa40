package convert

import (
	"fmt"
	"strings"
	"testing"
)

// TestTexts that may hold handlers, and cannot be taken at all: each is refused with its
// line in the input.
func TestTexts(t *testing.T) {
	bomb := "kind: lifecycle\na: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", 'b'+i, 'b'+i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", 'a'+i), 9), ","))
	}
	const neighbour = "kind: ConfigMap\n---\n"
	for name, test := range map[string]struct {
		text string
		line int
		says string
	}{
		"broken YAML":             {"lifecycle: [", 1, "is not valid YAML"},
		"broken further down":     {neighbour + "kind: Pod\nspec:\n  lifecycle:\n    preStop: a: b\n", 6, "mapping values are not allowed"},
		"broken by indentation":   {neighbour + "kind: Pod\nspec:\n  lifecycle:\n    preStop: {}\n   x: y\n", 7, "did not find expected key"},
		"a template":              {neighbour + "kind: Pod\n{{ if .Values.a }}\n{{ end }}", 4, `template that was not rendered: it has "{{"`},
		"not UTF-8":               {"lifecycle:\na: \xff", 2, "is not UTF-8 text"},
		"UTF-16":                  {"\xff\xfep\x00r\x00e\x00S\x00t\x00o\x00p\x00", 1, "is not UTF-8 text"},
		"metadata of a word":      {"{kind: Pod, apiVersion: v1, metadata: p, spec: {containers: [{name: a, lifecycle: " + preStop + "}]}}", 1, "metadata: must be a mapping"},
		"a hidden document":       {"kind: Pod\n...\nkind: lifecycle\n", 1, "more follows the end of the document"},
		"more behind braces":      {"{kind: Pod}\nkind: lifecycle\n", 1, "more follows the end of the document"},
		"an alias to nothing":     {"kind: lifecycle\na: *b", 2, "unknown anchor"},
		"an alias to itself":      {"lifecycle: &a [*a]", 1, "contains itself"},
		"aliases that explode":    {bomb, 8, "holds more than"},
		"a key that is a list":    {"lifecycle: a\n? [a]\n: b\n", 2, "invalid map key"},
		"what JSON cannot have":   {"lifecycle: a\nb: .nan\n", 2, "unsupported value"},
		"nested beyond reason":    {"lifecycle: " + strings.Repeat("[", 20000), 1, "exceeded max depth"},
		"behind a separator":      {"kind: a\n--- {kind: lifecycle}\n", 2, "document 2: begins on the line of its ---"},
		"a hidden one in JSON":    {"kind: a\n---\n{}\n" + `{"lifecycle": 1}` + "\n", 3, "document 3: follows another JSON value"},
		"a second one, in JSON":   {`{"a": 1}` + "\n---\n" + `{"lifecycle": [1, 1}`, 3, "document 2"},
		"a handler, and no value": {"kind: Pod\napiVersion: v1\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    lifecycle:\n      preStop: {}\n", 8, "exactly one of"},
	} {
		t.Run(name, func(t *testing.T) {
			result, report := Stream([]byte(test.text), inClass)
			if len(report.Refusals) != 1 || !strings.Contains(report.Refusals[0].String(), test.says) || len(result) > 0 {
				t.Fatalf("got %.500v, %.500q", report.Refusals, result)
			}
			if got := report.Refusals[0].Line; got != test.line {
				t.Errorf("got line %d, want %d: %s", got, test.line, report.Refusals[0])
			}
		})
	}
}

// TestUnread (docs/spec.md#convert-text): a text that cannot hold a handler is passed on byte for byte, also where
// kubectl could not read it, and also beside a pod that is converted (FAULTS B7).
func TestUnread(t *testing.T) {
	for name, text := range map[string]string{
		"broken YAML":          "a: [\n",
		"not UTF-8":            "a: \xff\n",
		"UTF-16":               "\xff\xfea\x00",
		"a key twice":          "kind: Pod\nspec:\n  a: 1\n  a: 2\n",
		"a key twice in JSON":  `{"spec": {"a": 1, "a": 1}}` + "\n",
		"a merge twice":        "x: &a {b: c}\ny: {<<: *a, <<: *a}\n",
		"a hidden document":    "kind: Pod\n...\nkind: Pod\n",
		"a directive":          "%YAML 1.1\n---\nkind: Pod\n",
		"an alias to nothing":  "a: *b\n",
		"a key that is a list": "? [a]\n: b\n",
		"behind a separator":   "kind: a\n--- {kind: b}\n",
		"a hidden one in JSON": "kind: a\n---\n{}\n{}\n",
	} {
		t.Run(name, func(t *testing.T) {
			result, report := Stream([]byte(text), inClass)
			if string(result) != text || len(report.Refusals)+len(report.Warnings) > 0 {
				t.Errorf("got %q, %v, %v", result, report.Refusals, report.Warnings)
			}
			pod := fixture{lifecycle: preStop}.yaml() + "---\n"
			result, report = Stream([]byte(pod+text), inClass)
			if !strings.HasSuffix(string(result), "\n---\n"+text) || report.Moved != 1 {
				t.Errorf("got %q, %v", result, report.Refusals)
			}
		})
	}
}

// TestKeysTwice: kubectl takes the last of two keys, and so does the conversion. It says
// so only where it changes something (FAULTS B7).
func TestKeysTwice(t *testing.T) {
	const quiet = "kind: ConfigMap\nmetadata: {name: lifecycle, name: preStop}\nx: &a {b: c}\ny: {<<: *a, <<: *a}\n"
	result, report := Stream([]byte(quiet), inClass)
	if string(result) != quiet || len(report.Warnings) > 0 {
		t.Errorf("got %q, %v", result, report.Warnings)
	}
	const twice = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    image: x\n    image: y\n    lifecycle: {preStop: {sleep: {seconds: 1}}}\n"
	result, report = Stream([]byte(twice), inClass)
	if want := "    image: x\n    image: y\n"; !strings.HasSuffix(string(result), want) || len(report.Refusals) > 0 {
		t.Errorf("got %s, %v", result, report.Refusals)
	}
	if len(report.Warnings) != 1 || report.Warnings[0].Line != 8 || !strings.Contains(report.Warnings[0].Text, `the key "image" is there twice`) {
		t.Errorf("got %v", report.Warnings)
	}
}
