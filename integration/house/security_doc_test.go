package house

import (
	"regexp"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

// TestSecurityDocument: every test and fuzz target that docs/operate/security.md names exists,
// every boundary and attack has one, and its dependencies are go.mod's.
func TestSecurityDocument(t *testing.T) {
	text := docpage.Read(t, "docs/operate/security.md")
	known := testsBelow(t, root)
	name := regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`)
	for _, test := range name.FindAllString(text, -1) {
		if !known[test] {
			t.Errorf("there is no %s", test)
		}
	}
	for heading, least := range map[string]int{"## Boundaries": 14, "## Known attacks on the exec path": 15} {
		rows := docpage.Rows(docpage.Section(text, heading))
		if len(rows) < least {
			t.Errorf("%s has %d rows, at least %d are expected", heading, len(rows), least)
		}
		for _, cells := range rows {
			if !name.MatchString(cells[len(cells)-1]) {
				t.Errorf("%s: %q has no test", heading, cells[0])
			}
		}
	}
	documented := map[string]bool{}
	for _, cells := range docpage.Rows(docpage.Section(text, "## Direct dependencies, and why")) {
		documented[cells[0]] = true
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
