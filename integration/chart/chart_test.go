package chart

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	chartDir     = "../../deploy/charts/lifecycle-shim"
	manifestsDir = "../../deploy/kubernetes"
	// mutatingPolicies is the kind by which the chart knows that a cluster has such policies.
	mutatingPolicies = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
)

// helms are the releases of Helm that the chart is for.
var helms = []string{"helm3", "helm4"}

// run one of the programs in bin/. It returns what the program prints; an error has what it complains of.
func run(ctx context.Context, t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../bin", program))
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, path, args...)
	command.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin"} // not the user's plugins, repositories and cluster
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", program, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// must succeed.
func must(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := run(t.Context(), t, program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// template is the command line that renders the chart for a cluster of that version.
func template(version string, args ...string) []string {
	all := []string{"template", "lifecycle-shim", chartDir, "--namespace", "lifecycle-shim", "--kube-version", version}
	if version >= "1.36" {
		all = append(all, "--api-versions", mutatingPolicies)
	}
	return append(all, args...)
}

// valuesFile writes values for -f.
func valuesFile(t *testing.T, values map[string]any) string {
	t.Helper()
	text, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func readValues(t *testing.T, file string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return values
}

// Both Helms find nothing to complain of, with the default values and with all others.
func TestLint(t *testing.T) {
	for _, helm := range helms {
		for _, args := range [][]string{nil, {"-f", "testdata/full.yaml"}} {
			must(t, helm, append([]string{"lint", "--strict", chartDir}, args...)...)
		}
	}
}

// The chart, its programs and the Makefile have one version.
func TestVersion(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(makefile), "\nVERSION := ")
	want, _, _ := strings.Cut(rest, "\n")
	chart := readValues(t, chartDir+"/Chart.yaml")
	if want == "" || chart["version"] != want || chart["appVersion"] != want {
		t.Errorf("the Makefile has version %q, the chart %q and %q", want, chart["version"], chart["appVersion"])
	}
}
