package house

import (
	"go/parser"
	"go/token"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the path of this repository's module.
const module = "github.com/lifecycle-shim/lifecycle-shim/"

// imports are what the products' packages may import of ours, by directory; the longest directory counts. cmd imports shim, and
// shim what is below it; nothing imports upwards.
var imports = map[string][]string{
	"cmd":            {"cmd", "shim", "hookexec", "oci", "proto", "internal"},
	"shim":           {"shim", "hookexec", "oci", "proto", "internal"},
	"shim/lifecycle": {}, // the decisions know nothing of what carries them out
	"shim/version":   {},
	// The outcome of a run is lifecycle's: the machine may import nothing, so what runs handlers takes its type.
	"hookexec": {"hookexec", "proto", "internal", "shim/lifecycle"},
	"oci":      {"oci", "proto", "internal"},
	"proto":    {},
}

// TestImports: cmd → shim → {lifecycle, hookexec, oci, proto}.
func TestImports(t *testing.T) {
	checked := 0
	for _, file := range files(t, func(file string) bool { return strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, "_test.go") }) {
		allowed, ruled := importsOf(path.Dir(file))
		if !ruled {
			continue
		}
		checked++
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			own, ok := strings.CutPrefix(name, module)
			if ok && !slices.ContainsFunc(allowed, func(dir string) bool { return within(own, dir) }) {
				t.Errorf("%s imports %s; allowed are %q", file, own, allowed)
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d files are checked", checked)
	}
}

// importsOf returns the rule for a directory.
func importsOf(dir string) (allowed []string, ruled bool) {
	longest := ""
	for rule := range maps.Keys(imports) {
		if within(dir, rule) && len(rule) >= len(longest) {
			longest, ruled = rule, true
		}
	}
	return imports[longest], ruled
}

// within reports whether a directory is another one, or below it.
func within(dir, other string) bool { return dir == other || strings.HasPrefix(dir, other+"/") }
