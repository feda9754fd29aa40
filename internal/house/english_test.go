package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// constructions are what a reader has to translate back. Each has the plain words that usually replace it.
var constructions = []struct {
	instead string
	pattern *regexp.Regexp
}{
	{"if there is no …, is nil if", words(`where (there|it|that|they|this|he) (is|are|was|were|has|have|had|does|do|can|could) (none|one|not|no)|where none`)},
	{"reports, returns, says", words(`tells|told`)},
	{"no client, any caller, for any reason", words(`nobody|somebody|whoever|whomever|however (it|they|he|that) \w+`)},
	{"returns its own error", words(`(has|have|had) the words|(gets|with) the runtime's words`)},
	{"any, regardless of", words(`whatever|whichever`)},
	{"is, returns, results in", words(`(comes|come|came) to|(comes|come|came|becomes|become|became) of`)},
	{"when it runs, when it expires", words(`(is|are|was|were) due`)},
	{"for lack of, so that … not", words(`for want of|lest|to no avail`)},
	{"its own", words(`of (its|their|his|one's|our) own`)},
	{"except", words(`but for`)},
	{"while there are", words(`as long as (there (is|are)|it (is|has))`)},
	{"the rest, the leftover", words(`what is left|what it has left|what remains of`)},
	{"continues", words(`(goes|go|went|going|gone) on`)},
}

// words matches the alternatives as whole words, with any space between them.
func words(alternatives string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(?:` + strings.ReplaceAll(alternatives, " ", `\s+`) + `)\b`)
}

// plain is the limit for each construction, in occurrences per 1,000 words.
const plain = 0.3

// ceilings are for parts whose text is being rewritten; there are none. They only go down. A part is a directory, or a file.
var ceilings = map[string]float64{}

// least is how many words a part needs for a rate. Below that, one occurrence is allowed.
const least = 1000

// TestPlainEnglish counts the constructions in what people read: comments, pages, and texts that the programs print.
func TestPlainEnglish(t *testing.T) {
	texts := map[string]*strings.Builder{}
	for _, file := range files(t, hasSuffix(".go", ".md", ".sh", ".yaml", ".toml", ".proto", "Makefile")) {
		if text := proseOf(t, file); text != "" {
			part := partOf(file)
			if texts[part] == nil {
				texts[part] = &strings.Builder{}
			}
			texts[part].WriteString(text + "\n\n")
		}
	}
	for part, text := range texts {
		limit := plain
		if ceiling, ok := ceilings[part]; ok {
			limit = ceiling
		}
		checkEnglish(t, part, text.String(), limit)
	}
}

func checkEnglish(t *testing.T, part, text string, limit float64) {
	t.Helper()
	thousands := float64(max(len(strings.Fields(text)), least)) / 1000
	for _, c := range constructions {
		found := c.pattern.FindAllString(text, -1)
		if rate := float64(len(found)) / thousands; rate > limit && len(found) > 1 {
			t.Errorf("%s: %.2f per 1,000 words (%d), at most %.2f are allowed: %q …; write %q or the like",
				part, rate, len(found), limit, strings.Join(strings.Fields(found[0]), " "), c.instead)
		}
	}
}

// partOf a file: its first two directories for shim and cmd, the first one for the others, docs for all pages.
func partOf(file string) string {
	dir := path.Dir(file)
	names := strings.Split(dir, "/")
	switch {
	case file == "docs/lifecycle.md": // generated from the machine
		return file
	case strings.HasSuffix(file, ".md") && names[0] != "integration":
		return "docs"
	case dir == ".":
		return "Makefile"
	}
	return names[0]
}

// proseOf returns what people read in a file: all of a page, the comments of other files, and the texts of a program.
func proseOf(t *testing.T, file string) string {
	t.Helper()
	text := read(t, file)
	switch filepath.Ext(file) {
	case ".md":
		return text
	case ".go":
		if strings.HasSuffix(file, ".pb.go") || file == "internal/house/english_test.go" {
			return ""
		}
		return goProse(t, file, text)
	case ".proto":
		return commentLines(text, "//")
	}
	return commentLines(text, "#")
}

// commentLines returns the comments of a file that has them from the mark to the end of a line.
func commentLines(text, mark string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if _, comment, ok := strings.Cut(line, mark); ok {
			b.WriteString(comment)
		}
	}
	return b.String()
}

// goProse returns the comments of a Go file, and the string literals of a program that are sentences.
func goProse(t *testing.T, file, text string) string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, group := range parsed.Comments {
		b.WriteString(group.Text() + "\n")
	}
	if strings.HasSuffix(file, "_test.go") {
		return b.String()
	}
	ast.Inspect(parsed, func(node ast.Node) bool {
		if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if value, err := strconv.Unquote(literal.Value); err == nil && len(strings.Fields(value)) >= 4 {
				b.WriteString(value + "\n")
			}
		}
		return true
	})
	return b.String()
}
