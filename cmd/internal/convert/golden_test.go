package convert

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the converted manifests of testdata anew")

// TestManifests: testdata has one manifest of each kind, and what becomes of it.
func TestManifests(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.*")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			text := readFile(t, input)
			result, report := Stream([]byte(text), inClass)
			for _, refusal := range report.Refusals {
				t.Error(refusal)
			}
			if report.Moved == 0 {
				t.Error("no handlers are moved")
			}
			output := strings.Replace(input, ".in.", ".out.", 1)
			if *update {
				if err := os.WriteFile(output, result, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := readFile(t, output); string(result) != want {
				t.Errorf("got\n%s\nwant\n%s", result, want)
			}
			if again, report := Stream(result, inClass); string(again) != string(result) || report.Moved > 0 {
				t.Errorf("converted twice it is\n%s", again)
			}
			validation := Validate(result, inClass)
			for _, finding := range append(validation.Refusals, validation.Warnings...) {
				t.Error(finding)
			}
			if len(validation.Checked) < report.Moved {
				t.Errorf("%d containers have handlers, %d are checked", report.Moved, len(validation.Checked))
			}
		})
		for _, d := range split([]byte(readFile(t, input))) {
			if meaning, err := d.meaning(d.text); err == nil {
				if tree, ok := decodeObject(meaning); ok {
					kind, _ := tree["kind"].(string)
					kinds[kind] = true
				}
			}
		}
	}
	for _, group := range templates {
		for kind := range group {
			if !kinds[kind] {
				t.Errorf("testdata has no %s", kind)
			}
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
