package convert

import (
	"regexp"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

// TestPage holds docs/use/convert.md true: each example becomes the next one, each row
// of what is refused is refused in its words, and every kind is named.
func TestPage(t *testing.T) {
	page := docpage.Read(t, "docs/use/convert.md")
	blocks := docpage.Blocks(page, "yaml")
	if len(blocks) < 4 || len(blocks)%2 != 0 {
		t.Fatalf("%d blocks of YAML are found", len(blocks))
	}
	for i := 0; i < len(blocks); i += 2 {
		result, report := Stream([]byte(blocks[i]), inClass)
		if string(result) != blocks[i+1] || len(report.Refusals) > 0 {
			t.Errorf("got %s, %v, want %s", result, report.Refusals, blocks[i+1])
		}
	}
	rows := regexp.MustCompile("(?m)^\\| `(\\{.*\\})` \\| (.*) \\|$").FindAllStringSubmatch(page, -1)
	if len(rows) < 8 {
		t.Errorf("%d refusals are found", len(rows))
	}
	for _, row := range rows {
		_, report := Stream([]byte(fixture{lifecycle: row[1]}.yaml()), inClass)
		if len(report.Refusals) != 1 || !strings.HasPrefix(report.Refusals[0].String(), "Pod/p: container web: "+row[2]) {
			t.Errorf("%s is refused with %v, the page says %s", row[1], report.Refusals, row[2])
		}
	}
	for _, group := range templates {
		for kind := range group {
			if !strings.Contains(page, kind+"s") {
				t.Errorf("the page does not name %ss", kind)
			}
		}
	}
}
