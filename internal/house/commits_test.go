package house

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// firstCommit is where the rule begins; older subjects are longer.
const firstCommit = "e00b6d44e4f1777a563ddff0feb3c43d650aa157"

// known are subjects that are longer, and that were handed in before it was noticed.
var known = []string{
	"chart: helm test stays within the limits; flags are tried on the programs",
	"shim: a Delete of a container that was not started kills its process first",
}

// mostSubject is the length of a commit's subject that every tool shows whole.
const mostSubject = 72

// TestCommitSubjects: subjects are short, because they are read in lists; the reason is in the body. A source tree without history has
// no subjects, and a shallow clone has those of the commits that it has.
func TestCommitSubjects(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		return
	}
	commits := firstCommit + "..HEAD"
	if gitOutput(t, "cat-file", "-e", firstCommit) == nil {
		commits = "-1" // a shallow clone
	}
	for subject := range strings.Lines(string(gitOutput(t, "log", "--no-merges", "--format=%s", commits))) {
		subject = strings.TrimSpace(subject)
		if length := utf8.RuneCountInString(subject); length > mostSubject && !slices.Contains(known, subject) {
			t.Errorf("a commit's subject has %d characters, at most %d are allowed: %s", length, mostSubject, subject)
		}
	}
}

// gitOutput returns the output of a git command, and nil if it fails.
func gitOutput(t *testing.T, args ...string) []byte {
	t.Helper()
	command := exec.CommandContext(t.Context(), "git", append([]string{"-c", "safe.directory=*", "-C", root}, args...)...)
	out, err := command.Output()
	if err != nil {
		return nil
	}
	return append(out, '\n')
}
