package convert

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPublicStyles: testdata/public has manifests in the styles of public charts and pages,
// written for this test. Each is converted, and its diff, in a file beside it, has lines of
// handlers only: what goes is a handler's, what comes is an annotation, the key that holds
// it, or the class.
func TestPublicStyles(t *testing.T) {
	names, err := filepath.Glob("testdata/public/*.[jy]*")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 25 {
		t.Errorf("%d manifests are found", len(names))
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text := readFile(t, name)
			result, report := Stream([]byte(text), inClass)
			for _, finding := range append(report.Refusals, report.Warnings...) {
				t.Errorf("line %d: %s", finding.Line, finding)
			}
			if report.Moved == 0 {
				t.Error("no handler is moved")
			}
			diff := lineDiff(text, string(result))
			golden := strings.TrimSuffix(name, filepath.Ext(name)) + ".diff"
			if *update {
				if err := os.WriteFile(golden, []byte(diff), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := readFile(t, golden); diff != want {
				t.Errorf("the diff is\n%s\nwant\n%s", diff, want)
			}
			for _, d := range split([]byte(text)) {
				_, one := Stream(d.text, inClass)
				if edited := checkUnedited(t, d.text); edited != (one.Moved > 0) {
					t.Errorf("%s: edited is %v", d.name(), edited)
				}
			}
			if again, report := Stream(result, inClass); string(again) != string(result) || report.Moved > 0 {
				t.Errorf("converted twice it is\n%s", again)
			}
		})
	}
}
