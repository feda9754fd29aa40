package house

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const specification = "docs/spec.md"

var (
	// anchor is one that an author has set.
	anchor = regexp.MustCompile(`<a id="([^"]+)"></a>`)
	// heading is a heading of Markdown, whose anchor GitHub derives from its text.
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	// link is the target of a Markdown link.
	link = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	// mention is a page of docs/ with an anchor, in any text.
	mention = regexp.MustCompile(`\bdocs/[a-z0-9/-]+\.md(?:#[a-zA-Z0-9-]+)?`)
	// fenced is a block of code, whose lines are neither headings nor links.
	fenced = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```")
	// section is how the contract was quoted while it was outside the repository.
	section = regexp.MustCompile(`\bSPEC [0-9"]`)
)

// textual are the files in which people read about rules.
var textual = hasSuffix(".go", ".md", ".txt", ".yaml", ".toml", ".proto", ".sh", "Makefile", ".service")

// anchors returns all anchors of a page: those that its author has set, and those of its headings.
func anchors(page string) []string {
	var found []string
	for _, match := range anchor.FindAllStringSubmatch(page, -1) {
		found = append(found, match[1])
	}
	for _, match := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		found = append(found, slug(match[1]))
	}
	return found
}

// slug is the anchor that GitHub gives a heading: lower case, punctuation dropped, a hyphen for each space.
func slug(text string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(text, "$1")) {
		switch {
		case r == ' ':
			b.WriteRune('-')
		case r == '-', r == '_', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r > 127:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// TestMentionsResolve: a comment that names a page or a rule that is gone misleads its reader more than no comment.
func TestMentionsResolve(t *testing.T) {
	for _, file := range files(t, textual) {
		for _, target := range mention.FindAllString(read(t, file), -1) {
			page, fragment, _ := strings.Cut(target, "#")
			checkTarget(t, file, page, fragment)
		}
	}
}

// TestLinksResolve: every relative link of a Markdown page leads to a file, and to an anchor in it.
func TestLinksResolve(t *testing.T) {
	for _, file := range files(t, hasSuffix(".md")) {
		for _, match := range link.FindAllStringSubmatch(fenced.ReplaceAllString(read(t, file), ""), -1) {
			target, fragment, _ := strings.Cut(match[1], "#")
			switch {
			case strings.Contains(target, "://"), strings.HasPrefix(target, "mailto:"):
			case target == "":
				checkTarget(t, file, file, fragment)
			default:
				checkTarget(t, file, path.Join(path.Dir(file), target), fragment)
			}
		}
	}
}

// checkTarget fails unless the file exists and has the anchor.
func checkTarget(t *testing.T, from, to, fragment string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(to))); err != nil {
		t.Errorf("%s refers to %s, which does not exist", from, to)
		return
	}
	if fragment != "" && strings.HasSuffix(to, ".md") && !slices.Contains(anchors(read(t, to)), fragment) {
		t.Errorf("%s refers to %s#%s, which does not exist", from, to, fragment)
	}
}

// TestEveryRuleIsTested: a rule that no test names is a rule that nobody would miss.
func TestEveryRuleIsTested(t *testing.T) {
	named := map[string]bool{}
	for _, file := range files(t, hasSuffix("_test.go")) {
		for _, target := range mention.FindAllString(read(t, file), -1) {
			named[target] = true
		}
	}
	rules := map[string]bool{}
	for _, match := range anchor.FindAllStringSubmatch(read(t, specification), -1) {
		if rules[match[1]] {
			t.Errorf("%s has the anchor %s twice", specification, match[1])
		}
		if rules[match[1]] = true; !named[specification+"#"+match[1]] {
			t.Errorf("no test names %s#%s", specification, match[1])
		}
	}
	if len(rules) == 0 {
		t.Error("the specification has no rules")
	}
}

// TestNoOldQuotations: the contract is docs/spec.md; numbers of sections lead to a file outside the repository.
func TestNoOldQuotations(t *testing.T) {
	for _, file := range files(t, textual) {
		if old := section.FindString(read(t, file)); old != "" && file != "internal/house/links_test.go" {
			t.Errorf("%s says %q; name the rule as %s#id", file, old, specification)
		}
	}
}

// TestPagesAreListed: docs/README.md leads to every page.
func TestPagesAreListed(t *testing.T) {
	index := read(t, "docs/README.md")
	for _, file := range files(t, func(path string) bool { return strings.HasPrefix(path, "docs/") }) {
		if name := strings.TrimPrefix(file, "docs/"); name != "README.md" && !strings.Contains(index, "("+name+")") {
			t.Errorf("docs/README.md does not list %s", name)
		}
	}
}
