package shim

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOperationsPage: what docs/operate/operations.md quotes as messages and log fields
// is in the programs.
func TestOperationsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/operate/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	sources := readSources(t, ".", "internal/*", "lifecycle", "../hookexec", "../oci", "../cmd/lifecyclectl")
	_, troubles, _ := strings.Cut(string(page), "## Troubleshooting")
	_, logs, _ := strings.Cut(string(page), "## Logs")
	logs, _, _ = strings.Cut(logs, "\n## ")
	quoted := 0
	for _, quote := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(troubles+firstCells(logs), -1) {
		if text := quote[1]; isMessage(text) {
			quoted++
			if !strings.Contains(sources, text) {
				t.Errorf("no program says %q", text)
			}
		}
	}
	if quoted < 12 {
		t.Errorf("%d messages are found", quoted)
	}
	for _, field := range []string{"handler", "attempts", "result", "took", "signal", "event", "from", "state", "why", "effects", "namespace", "id"} {
		if !strings.Contains(logs, "`"+field+"`") || !strings.Contains(sources, `"`+field+`"`) {
			t.Errorf("the field %s is not in the page's section on logs, or not in the log", field)
		}
	}
}

// isMessage distinguishes messages of our programs from commands, paths, settings and
// what others say.
func isMessage(text string) bool {
	for _, other := range []string{"lifecyclectl ", "kubectl ", "ctr ", "journalctl ", "systemctl ", "ls ", "readlink ", "nsenter ", "containerd-shim", "runtime \"", "failurePolicy", "output:", "/"} {
		if strings.HasPrefix(text, other) {
			return false
		}
	}
	return strings.Contains(text, " ") && !strings.HasSuffix(text, " waits)")
}

// firstCells of a table's rows, where its messages are.
func firstCells(table string) string {
	var cells []string
	for line := range strings.Lines(table) {
		if cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | "); ok && strings.HasPrefix(line, "| `") {
			cells = append(cells, cell)
		}
	}
	return strings.Join(cells, "\n")
}

func readSources(t *testing.T, dirs ...string) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
	}
	return all.String()
}
