package convert

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// FuzzSimpleScalar: the short way of writing a scalar gives the library's bytes.
func FuzzSimpleScalar(f *testing.F) {
	for _, text := range []string{
		"", "{}", "{ }", `{"a":"it's"}`, `{"a": "b # c"}`, `{"a":"é"}`, "{\n}", "{\t}", "{'}", "{" + strings.Repeat("word ", 500) + "}",
		"web.lifecycle-shim.io/lifecycle", "1.lifecycle-shim.io/lifecycle", "0/a", "1e3.x/a", "null/null", "-a/b", "a--/b", ".a/b", "a/B", "a/b/c", "a/", "metadata", "true",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := simpleScalar(text)
		if !ok {
			return
		}
		want, err := yaml.Marshal(valueNode(text))
		if err != nil || got+"\n" != string(want) {
			t.Errorf("got %q, want %q, %v", got, want, err)
		}
	})
}

// TestLargeDocument: a document that both libraries read at the same time is converted and
// refused like a small one.
func TestLargeDocument(t *testing.T) {
	for name, size := range map[string]int{"small": 4 << 10, "large": largeDocument} {
		t.Run(name, func(t *testing.T) {
			text := oneList(size)
			if (len(text) >= largeDocument) != (name == "large") {
				t.Fatalf("the text has %d bytes", len(text))
			}
			result, report := Stream(text, inClass)
			annotations := strings.Count(string(result), ".lifecycle-shim.io/lifecycle: '")
			if len(report.Refusals)+len(report.Warnings) > 0 || report.Moved == 0 || annotations != report.Moved {
				t.Errorf("%d moved, %d annotations, %v, %v", report.Moved, annotations, report.Refusals, report.Warnings)
			}
			for more, says := range map[string]string{
				"...\nkind: lifecycle\n": "more follows the end of the document",
				"x: [\n":                 "is not valid YAML",
				"x: *lifecycle\n":        "unknown anchor",
			} {
				result, report := Stream(append(text[:len(text):len(text)], more...), inClass)
				if len(report.Refusals) != 1 || !strings.Contains(report.Refusals[0].Text, says) || result != nil {
					t.Errorf("%q: got %v, want %q", more, report.Refusals, says)
				}
			}
		})
	}
}
