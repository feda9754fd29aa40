package house

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mostWords of the README: it is a door, and the handbooks are in docs/.
const mostWords = 550

// TestReadme: it is short, its make targets exist, and it names the commands that CI runs first.
func TestReadme(t *testing.T) {
	page, makefile := read(t, "README.md"), read(t, "Makefile")
	if count := len(strings.Fields(page)); count > mostWords {
		t.Errorf("README.md has %d words, at most %d are allowed; put details into docs/", count, mostWords)
	}
	targets := makeTargets(page)
	for _, target := range targets {
		if !strings.Contains(makefile, "\n"+target+":") {
			t.Errorf("README.md has `make %s`, which the Makefile does not", target)
		}
	}
	for _, target := range []string{"demo", "test"} {
		if !slices.Contains(targets, target) {
			t.Errorf("README.md does not have `make %s`", target)
		}
	}
	if !strings.Contains(read(t, ".ci/run"), "\nmake test\n") {
		t.Error("CI does not run `make test`, the test command of README.md")
	}
}

// TestHackingTargets: every make target in HACKING.md exists.
func TestHackingTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, target := range makeTargets(read(t, "HACKING.md")) {
		if !strings.Contains(makefile, "\n"+target+":") {
			t.Errorf("HACKING.md has `make %s`, which the Makefile does not", target)
		}
	}
}

// makeTargets returns the targets of the make commands in a page.
func makeTargets(page string) []string {
	var targets []string
	for _, match := range regexp.MustCompile("(?m)(?:^|`)make ((?:[a-z0-9-]+ ?)+)").FindAllStringSubmatch(page, -1) {
		targets = append(targets, strings.Fields(match[1])...)
	}
	return targets
}
