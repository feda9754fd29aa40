package chart

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

// The page's table has every value, with its default.
func TestDocumentedValues(t *testing.T) {
	want := map[string]string{}
	for path, value := range leaves(readValues(t, chartDir+"/values.yaml"), "", map[string]any{}) {
		text, ok := value.(string)
		if !ok || text == "" {
			encoded, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			text = string(encoded)
		}
		want["`"+path+"`"] = "`" + text + "`"
	}
	for _, row := range docpage.Rows(docpage.Section(docpage.Read(t, "docs/use/kubernetes.md"), "### Values")) {
		if len(row) != 3 {
			t.Errorf("a row of another form: %q", row)
			continue
		}
		if value, ok := want[row[0]]; !ok || value != row[1] {
			t.Errorf("the page has %s with the default %s, values.yaml has %q", row[0], row[1], value)
		}
		delete(want, row[0])
	}
	if len(want) > 0 {
		t.Errorf("the page does not have %q", slices.Sorted(maps.Keys(want)))
	}
}
