package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamples: the manifests in examples/ convert without a warning, and the shim accepts what becomes of them.
func TestExamples(t *testing.T) {
	manifests, err := filepath.Glob("../../examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	converted := 0
	for _, file := range manifests {
		if filepath.Base(file) == "compose.yaml" {
			continue // not Kubernetes'
		}
		out := run(t, "convert", "-f", file)
		if !strings.Contains(out, ".lifecycle-shim.io/lifecycle:") || !strings.Contains(out, "runtimeClassName: lifecycle") {
			t.Errorf("%s becomes\n%s", file, out)
		}
		result := filepath.Join(t.TempDir(), "converted.yaml")
		if err := os.WriteFile(result, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "validate", "-f", result)
		converted++
	}
	if converted != 3 {
		t.Errorf("%d manifests are converted, want 3", converted)
	}
}

// run returns the output of a command that succeeds and warns of nothing.
func run(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	if err := root.Execute(); err != nil || errs.Len() > 0 {
		t.Fatalf("lifecyclectl %s: %v\n%s", strings.Join(args, " "), err, &errs)
	}
	return out.String()
}
