package house

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

var (
	// place is a function and the file that has it, as HACKING.md names them.
	place = regexp.MustCompile("`(\\w+)` in `([a-z0-9_/-]+\\.go)`")
	// pathName is a file or directory of the repository, as HACKING.md names it.
	pathName = regexp.MustCompile("`((?:shim|hookexec|oci|proto|cmd|deploy|integration|internal|docs|examples)(?:/[A-Za-z0-9_./-]*)?)`")
	// runOne is a command that runs one test.
	runOne = regexp.MustCompile(`(?m)^go (?:-C (\w+) )?test .*-run (Test\w+) (\.[a-z0-9/]*)$`)
)

// TestHackingPlaces: HACKING.md is the first page that a newcomer follows, so every function, path and test in it exists.
func TestHackingPlaces(t *testing.T) {
	page := read(t, "HACKING.md")
	places := place.FindAllStringSubmatch(page, -1)
	if len(places) < 8 {
		t.Errorf("found %d functions in HACKING.md", len(places))
	}
	for _, match := range places {
		if !regexp.MustCompile(`(?m)^func (\([^)]*\) )?` + match[1] + `\(`).MatchString(read(t, match[2])) {
			t.Errorf("%s has no function %s", match[2], match[1])
		}
	}
	for _, match := range pathName.FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join(root, match[1])); err != nil {
			t.Error(err)
		}
	}
}

// mentionsType finds tcpSocket in each spelling: of YAML, of Go and of the schema.
var mentionsType = regexp.MustCompile(`(?i)tcp_?socket`)

// TestHackingTypes: the steps that add a handler type follow tcpSocket, so they name every file that has to know it.
func TestHackingTypes(t *testing.T) {
	steps := docpage.Section(read(t, "HACKING.md"), "## Add a handler type")
	if !strings.Contains(steps, "checkAction") {
		t.Fatal("HACKING.md has no steps that add a handler type")
	}
	for _, file := range files(t, hasToKnowTypes) {
		if mentionsType.MatchString(read(t, file)) && !strings.Contains(steps, "`"+file+"`") {
			t.Errorf("%s mentions tcpSocket, and the steps in HACKING.md do not name the file", file)
		}
	}
}

// hasToKnowTypes excludes what only uses a type, and what is generated.
func hasToKnowTypes(file string) bool {
	if file == "HACKING.md" || file == "CHANGELOG.md" || strings.HasPrefix(file, "examples/") || strings.HasPrefix(file, "integration/") {
		return false
	}
	return textual(file) && !strings.HasSuffix(file, "_test.go") && !strings.HasSuffix(file, ".pb.go")
}

// TestHackingCommands: the commands that run one test name a test of that package.
func TestHackingCommands(t *testing.T) {
	commands := runOne.FindAllStringSubmatch(read(t, "HACKING.md"), -1)
	if len(commands) != 2 {
		t.Fatalf("found %d commands that run one test, want a unit and an integration test", len(commands))
	}
	for _, match := range commands {
		dir := path.Join(match[1], match[3])
		in := files(t, func(file string) bool { return path.Dir(file) == dir && strings.HasSuffix(file, "_test.go") })
		found := false
		for _, file := range in {
			found = found || strings.Contains(read(t, file), "\nfunc "+match[2]+"(")
		}
		if !found {
			t.Errorf("%s has no %s", dir, match[2])
		}
	}
}
