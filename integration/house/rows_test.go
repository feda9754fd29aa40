package house

import (
	"os"
	"strings"
	"testing"
)

// TestRows: every test that ROWS.md names exists, and every row has at least one. A cell without a test gives the reason after a
// dash.
func TestRows(t *testing.T) {
	tests := testsBelow(t, "..")
	text, err := os.ReadFile("../ROWS.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.Contains(cells[0], "---") || strings.TrimSpace(cells[0]) == "row" {
			continue
		}
		rows++
		named := 0
		for _, cell := range cells[1:] {
			for _, name := range strings.FieldsFunc(cell, func(r rune) bool { return strings.ContainsRune(" ,:", r) }) {
				if !strings.HasPrefix(name, "Test") {
					continue
				}
				named++
				if !tests[name] {
					t.Errorf("row %q: there is no %s", strings.TrimSpace(cells[0]), name)
				}
			}
			if cell = strings.TrimSpace(cell); cell == "" || !strings.HasPrefix(cell, "Test") && !strings.HasPrefix(cell, "–") {
				t.Errorf("row %q has the cell %q", strings.TrimSpace(cells[0]), cell)
			}
		}
		if named == 0 {
			t.Errorf("row %q has no test", strings.TrimSpace(cells[0]))
		}
	}
	if rows < 40 {
		t.Errorf("%d rows are found, there must be 40 at least", rows)
	}
}
