package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSecurityDocument: every test and fuzz target that docs/operate/security.md names exists,
// every boundary and attack has one, and its dependencies are go.mod's.
func TestSecurityDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/operate/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := testsBelow(t, root)
	name := regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`)
	for _, test := range name.FindAllString(string(text), -1) {
		if !known[test] {
			t.Errorf("there is no %s", test)
		}
	}
	rows := map[string]int{}
	documented := map[string]bool{}
	section := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			section = heading
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		rows[section]++
		first, last := strings.TrimSpace(cells[0]), cells[len(cells)-1]
		switch {
		case rows[section] == 1: // the table's heads
		case section == "Boundaries" || section == "Known attacks on the exec path":
			if !name.MatchString(last) {
				t.Errorf("%s: %q has no test", section, first)
			}
		case strings.HasPrefix(section, "Direct dependencies"):
			documented[first] = true
		}
	}
	if rows["Boundaries"] < 15 || rows["Known attacks on the exec path"] < 16 {
		t.Errorf("rows %v: some are not found", rows)
	}
	for module := range directModules(t) {
		if !documented[module] {
			t.Errorf("the direct dependency %s is not listed with its reason", module)
		}
		delete(documented, module)
	}
	for module := range documented {
		t.Errorf("%s is no direct dependency", module)
	}
}

// directModules returns the modules that the packages of the product's module import.
func directModules(t *testing.T) map[string]bool {
	t.Helper()
	direct := map[string]bool{}
	for _, require := range parse(t, ".").Require {
		if !require.Indirect {
			direct[require.Mod.Path] = true
		}
	}
	return direct
}
