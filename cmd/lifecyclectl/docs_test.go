package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPages: every command line of lifecyclectl in the documentation is one that
// it takes.
func TestPages(t *testing.T) {
	pages := []string{"../../README.md", "../../HACKING.md", "../../examples/README.md"}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/*/*.md"} {
		some, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, some...)
	}
	found := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandLines(string(text)) {
			found++
			checkLine(t, page, line)
		}
	}
	if found < 15 {
		t.Errorf("%d command lines are found", found)
	}
}

// A span of code, or a line of a block up to a pipe, that begins with the command and goes on with a word.
var commandLine = regexp.MustCompile("(?m)(?:^|`)lifecyclectl ([a-z-][^`#|\n]*)")

func commandLines(text string) []string {
	var lines []string
	for _, match := range commandLine.FindAllStringSubmatch(text, -1) {
		lines = append(lines, strings.TrimSpace(match[1]))
	}
	return lines
}

func checkLine(t *testing.T, page, line string) {
	t.Helper()
	root := newRoot()
	root.InitDefaultCompletionCmd("x")
	root.InitDefaultVersionFlag()
	command, rest, err := root.Find(strings.Fields(line))
	if err == nil {
		err = command.ParseFlags(rest)
	}
	if err == nil && strings.Contains(line, " ") { // a name alone is a mention
		err = command.ValidateArgs(command.Flags().Args())
	}
	if err != nil || command == root && !root.Flags().Changed("version") {
		t.Errorf("%s: lifecyclectl %s: %v", page, line, err)
	}
}
