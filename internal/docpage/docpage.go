// Package docpage reads the project's pages for the tests that compare them with the code.
package docpage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Read returns a file of the repository. The path is from its top.
func Read(t testing.TB, path string) string {
	t.Helper()
	top, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for !exists(filepath.Join(top, "docs/spec.md")) {
		if top == filepath.Dir(top) {
			t.Fatal("the test does not run in the repository")
		}
		top = filepath.Dir(top)
	}
	text, err := os.ReadFile(filepath.Join(top, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Section returns what is below a heading, such as "## Try it", up to the next heading of the same or a higher level. It is empty if
// the page does not have the heading.
func Section(page, heading string) string {
	_, section, _ := strings.Cut("\n"+page, "\n"+heading+"\n")
	level := strings.IndexByte(heading, ' ')
	at, code := 0, false
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "```") {
			code = !code // a line with # is a comment there
		}
		marks := len(line) - len(strings.TrimLeft(line, "#"))
		if !code && marks > 0 && marks <= level && strings.HasPrefix(line[marks:], " ") {
			return section[:at]
		}
		at += len(line)
	}
	return section
}

// Blocks returns the code blocks of a language, such as "sh".
func Blocks(page, language string) []string {
	var blocks []string
	for _, rest := range strings.Split("\n"+page, "\n```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(rest, "```")
		blocks = append(blocks, block)
	}
	return blocks
}

// Rows returns the cells of all tables, without the heads of the tables.
func Rows(page string) [][]string {
	var rows [][]string
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
		case strings.Trim(line, "|-: ") == "": // the line below a head
			rows = rows[:max(0, len(rows)-1)]
		default:
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	return rows
}
