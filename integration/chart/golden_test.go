package chart

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// scenarios are rendered into testdata/NAME.golden.yaml.
var scenarios = map[string][]string{
	"policy-1.37":  template("1.37.0"),
	"webhook-1.30": template("1.30.0"),
	"full-1.37":    template("1.37.0", "-f", "testdata/full.yaml"),
}

// TestGolden: the complete output, which both Helms render alike but for the order of the objects.
func TestGolden(t *testing.T) {
	for name, args := range scenarios {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".golden.yaml")
			got := must(t, "helm3", args...)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("`make manifests` writes the golden files:\n%s", diff)
			}
			if diff := cmp.Diff(objects(t, got), objects(t, must(t, "helm4", args...))); diff != "" {
				t.Errorf("Helm 4 renders other objects:\n%s", diff)
			}
		})
	}
}

// emptyLine has blanks only: a template that leaves them has its dashes in the wrong places.
var emptyLine = regexp.MustCompile(`(?m)^[ \t]+$`)

// TestManifests: the plain manifests are what `make manifests` renders.
func TestManifests(t *testing.T) {
	dir := t.TempDir()
	helm, err := filepath.Abs("../../bin/helm3")
	if err != nil {
		t.Fatal(err)
	}
	must(t, "../tools/manifests", helm, dir)
	rendered := 0
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		rendered++
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(manifestsDir, name))
		if err != nil {
			return err
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
			t.Errorf("deploy/kubernetes/%s is not the chart's; `make manifests` writes it:\n%s", name, diff)
		}
		for _, only := range []string{"helm.sh/", "managed-by: Helm", "# Source:"} {
			if strings.Contains(string(want), only) {
				t.Errorf("deploy/kubernetes/%s has %q, which only Helm needs", name, only)
			}
		}
		if emptyLine.Match(want) {
			t.Errorf("deploy/kubernetes/%s has lines of blanks", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if rendered < 5 {
		t.Errorf("only %d files are rendered", rendered)
	}
}
