package house

import (
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

// TestRows: every test that ROWS.md names exists, and every row has at least one. A cell without a test gives the reason after a
// dash.
func TestRows(t *testing.T) {
	tests := testsBelow(t, "..")
	rows := docpage.Rows(docpage.Read(t, "integration/ROWS.md"))
	for _, cells := range rows {
		if len(cells) != 3 {
			t.Fatalf("row %q has %d cells, want 3", cells, len(cells))
		}
		named := 0
		for _, cell := range cells[1:] {
			for _, name := range strings.FieldsFunc(cell, func(r rune) bool { return strings.ContainsRune(" ,:", r) }) {
				if !strings.HasPrefix(name, "Test") {
					continue
				}
				named++
				if !tests[name] {
					t.Errorf("row %q: there is no %s", cells[0], name)
				}
			}
			if cell == "" || !strings.HasPrefix(cell, "Test") && !strings.HasPrefix(cell, "–") {
				t.Errorf("row %q has the cell %q", cells[0], cell)
			}
		}
		if named == 0 {
			t.Errorf("row %q has no test", cells[0])
		}
	}
	if len(rows) < 40 {
		t.Errorf("found %d rows, at least 40 are expected", len(rows))
	}
}
