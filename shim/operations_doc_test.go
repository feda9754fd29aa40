package shim

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestSettingsExample: deploy/config.toml changes nothing as it is, names every
// setting, and shows for each what holds without it.
func TestSettingsExample(t *testing.T) {
	const example = "../deploy/config.toml"
	none, err := (&runtimeOptions{}).settings(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := (&runtimeOptions{}).settings(example)
	if err != nil || got != none {
		t.Errorf("as it is, it says %+v, %v", got, err)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	uncommented := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(uncommented, regexp.MustCompile(`(?m)^#(\w)`).ReplaceAll(text, []byte("$1")), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err = (&runtimeOptions{}).settings(uncommented)
	file := got.metricsFile
	got.metricsFile = ""
	if err != nil || got != none || file == "" {
		t.Errorf("with its comments taken away, it says %+v, %q, %v", got, file, err)
	}
	fields := reflect.TypeFor[nodeConfig]()
	for i := range fields.NumField() {
		if name := fields.Field(i).Name; !bytes.Contains(text, []byte("\n#"+name+" = ")) {
			t.Errorf("it does not have %s", name)
		}
	}
}

// TestOperationsPage: what docs/operate/operations.md quotes as messages and log fields
// is in the programs.
func TestOperationsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/operate/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	sources := readSources(t, ".", "internal/tap", "lifecycle", "../hookexec", "../oci", "../cmd/lifecyclectl")
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

// isMessage tells words that our programs say from commands, paths, settings and
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
