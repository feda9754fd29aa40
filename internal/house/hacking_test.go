package house

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
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
