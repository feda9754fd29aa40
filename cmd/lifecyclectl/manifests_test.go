package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kyaml "k8s.io/apimachinery/pkg/util/yaml"
)

const (
	podYAML     = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, lifecycle: {preStop: {sleep: {seconds: 1}}}}]}\n"
	podJSON     = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"},"spec":{"containers":[{"name":"b","lifecycle":{"preStop":{"sleep":{"seconds":1}}}}]}}`
	refusedYAML = "apiVersion: v1\nkind: Pod\nmetadata: {name: c}\nspec: {containers: [{name: c, lifecycle: {preStop: {}, postStart: {}}}]}\n"
	sidecarYAML = "apiVersion: v1\nkind: Pod\nmetadata: {name: d, annotations: {lifecycle-shim.io/sidecars: Move}}\nspec: {initContainers: [{name: d, restartPolicy: Always, lifecycle: {preStop: {sleep: {seconds: 1}}}}]}\n"
	rolloutYAML = "apiVersion: example.org/v1\nkind: Batch\nmetadata: {name: r}\nspec: {pods: [{template: {spec: {containers: [{name: r, lifecycle: {preStop: {sleep: {seconds: 1}}}}]}}}]}\n"
	otherYAML   = "kind:   ConfigMap\napiVersion: v1\n"
)

// cli runs lifecyclectl in this process.
func cli(stdin string, args ...string) (stdout, stderr string, err error) {
	var out, errOut bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errOut)
	err = root.Execute()
	return out.String(), errOut.String(), err
}

// files writes them and returns their directory.
func files(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// kubectlReads returns the names of the objects that kubectl finds in a stream,
// with its own decoder, and whether they have been converted.
func kubectlReads(t *testing.T, stream string) (names []string) {
	t.Helper()
	decoder := kyaml.NewYAMLOrJSONDecoder(strings.NewReader(stream), 4096)
	for {
		var object unstructured.Unstructured
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatalf("%v in %s", err, stream)
		}
		if object.Object == nil {
			continue
		}
		name := object.GetKind() + "/" + object.GetName()
		if class, _, _ := unstructured.NestedString(object.Object, "spec", "runtimeClassName"); class != "" {
			name += " " + class
		}
		names = append(names, name)
	}
}

// TestConvert: what goes in, comes out as one stream that kubectl reads.
func TestConvert(t *testing.T) {
	dir := files(t, map[string]string{
		"a.yaml": podYAML, "b.json": podJSON, "b2.json": strings.ReplaceAll(podJSON, `"b"`, `"b2"`) + "\n", "k.yml": "---\n" + otherYAML, "notes.txt": "{", "below/d.yaml": sidecarYAML,
	})
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "../r"), 0o755), os.WriteFile(filepath.Join(dir, "../r/r.yaml"), []byte(rolloutYAML), 0o600)); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, test := range map[string]struct {
		args   []string
		want   []string
		stderr string
	}{
		"one":            {[]string{"-f", in("a.yaml")}, []string{"Pod/a lifecycle"}, ""},
		"another class":  {[]string{"-f", in("a.yaml"), "--runtime-class", "mine"}, []string{"Pod/a mine"}, ""},
		"pods elsewhere": {[]string{"-f", in("../r/r.yaml"), "--pods-at", "Batch.example.org=spec.pods[*].template"}, []string{"Batch/r"}, ""},
		"stdin":          {[]string{"-f", "-"}, []string{"Pod/a lifecycle", "ConfigMap/"}, ""},
		"JSON only":      {[]string{"-f", in("b.json"), "-f", in("b2.json")}, []string{"Pod/b lifecycle", "Pod/b2 lifecycle"}, ""},
		"in their order": {[]string{"-f", in("k.yml"), "-f", in("a.yaml")}, []string{"ConfigMap/", "Pod/a lifecycle"}, ""},
		"YAML and JSON":  {[]string{"-f", in("a.yaml") + "," + in("b.json"), "-f", in("k.yml")}, []string{"Pod/a lifecycle", "Pod/b lifecycle", "ConfigMap/"}, ""},
		"JSON and YAML":  {[]string{"-f", in("b.json"), "-f", in("a.yaml")}, []string{"Pod/b lifecycle", "Pod/a lifecycle"}, ""},
		"a directory":    {[]string{"-f", dir}, []string{"Pod/a lifecycle", "Pod/b lifecycle", "Pod/b2 lifecycle", "ConfigMap/"}, ""},
		"all below it": {
			[]string{"-f", dir, "-R"},
			[]string{"Pod/a lifecycle", "Pod/b lifecycle", "Pod/b2 lifecycle", "Pod/d lifecycle", "ConfigMap/"},
			"warning: " + in("below/d.yaml") + ":4: Pod/d: container d: lifecycle.preStop: runs later under this shim, when the sidecar is stopped",
		},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, err := cli(podYAML+"---\n"+otherYAML, append([]string{"convert"}, test.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if got := kubectlReads(t, stdout); strings.Join(got, ", ") != strings.Join(test.want, ", ") {
				t.Errorf("kubectl reads %q, want %q, in\n%s", got, test.want, stdout)
			}
			if (stderr == "") != (test.stderr == "") || !strings.Contains(stderr, test.stderr) {
				t.Errorf("it says %q, want %q", stderr, test.stderr)
			}
			if strings.Contains(stdout, "preStop:") {
				t.Errorf("handlers are left:\n%s", stdout)
			}
		})
	}
}

// TestConvertAllOrNothing: after one refusal no manifest is written, and every refusal is
// reported.
func TestConvertAllOrNothing(t *testing.T) {
	dir := files(t, map[string]string{"a.yaml": podYAML, "c.yaml": refusedYAML, "x.yaml": "kind: ConfigMap\n---\n{lifecycle"})
	stdout, stderr, err := cli("", "convert", "-f", dir)
	if stdout != "" || err == nil || err.Error() != "cannot convert the manifests, nothing is written: see the 3 refusals above" {
		t.Errorf("got %q, %v", stdout, err)
	}
	for _, part := range []string{
		filepath.Join(dir, "c.yaml") + ":4: Pod/c: container c: lifecycle.postStart: must have exactly one of",
		filepath.Join(dir, "c.yaml") + ":4: Pod/c: container c: lifecycle.preStop: must have exactly one of",
		filepath.Join(dir, "x.yaml") + ":3: document 2: is not valid YAML",
	} {
		if strings.Count(stderr, part) != 1 {
			t.Errorf("it does not say %q once: %s", part, stderr)
		}
	}
}

// TestManifestErrors: what cannot be read at all.
func TestManifestErrors(t *testing.T) {
	empty := t.TempDir()
	for name, test := range map[string]struct {
		args []string
		says string
	}{
		"no file":             {[]string{"convert"}, `required flag(s) "filename" not set`},
		"a missing file":      {[]string{"convert", "-f", "/nowhere.yaml"}, "/nowhere.yaml: no such file"},
		"an empty folder":     {[]string{"convert", "-f", empty}, "has no .yaml, .yml or .json file"},
		"no runtime class":    {[]string{"convert", "-f", "-", "--runtime-class", ""}, "--runtime-class is empty"},
		"a word too many":     {[]string{"convert", "-f", "-", "a.yaml"}, `unknown command "a.yaml"`},
		"a path that is none": {[]string{"convert", "-f", "-", "--pods-at", "Batch"}, `--pods-at: "Batch" is not KIND[.GROUP]=PATH`},
		"no certificate":      {[]string{"webhook"}, `"tls-cert-file", "tls-private-key-file" not set`},
		"a bad one":           {[]string{"webhook", "--tls-cert-file", "/nowhere", "--tls-private-key-file", "/nowhere"}, "cannot read the certificate, without which the webhook does not serve: open /nowhere"},
		"a log in XML":        {[]string{"webhook", "--tls-cert-file", "x", "--tls-private-key-file", "x", "--log-format", "xml"}, "use text or json"},
		"a loud log":          {[]string{"webhook", "--tls-cert-file", "x", "--tls-private-key-file", "x", "--log-level", "loud"}, "--log-level: "},
		"no class":            {[]string{"webhook", "--tls-cert-file", "x", "--tls-private-key-file", "x", "--runtime-class", ""}, "--runtime-class is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, _, err := cli("", test.args...)
			if err == nil || !strings.Contains(err.Error(), test.says) || stdout != "" {
				t.Errorf("got %v, %q", err, stdout)
			}
		})
	}
}

// TestValidate: what is checked goes to stdout, what is wrong to stderr.
func TestValidate(t *testing.T) {
	const good, bad = "lifecycle-shim.io/preStop: 'sleep: {seconds: 1}'\n", "a.lifecycle-shim.io/lifecycle: '{preStop: {}, stopSignal: X}'\n"
	dir := files(t, map[string]string{"good.yaml": good, "bad.yaml": bad, "bundle/config.json": `{"ociVersion":"1.2.0","annotations":{"lifecycle-shim.io/lifecycle":"preStop: {sleep: {seconds: 1}}"}}`})
	stdout, stderr, err := cli("", "validate", "-f", filepath.Join(dir, "good.yaml"), "-f", filepath.Join(dir, "bundle"))
	if want := filepath.Join(dir, "good.yaml") + ": document 1: preStop sleep\n" + filepath.Join(dir, "bundle/config.json") + ": document 1: preStop sleep\n"; stdout != want || stderr != "" || err != nil {
		t.Errorf("got %q, %q, %v", stdout, stderr, err)
	}
	stdout, stderr, err = cli("", "validate", "-f", dir)
	if err == nil || err.Error() != "the shim would refuse this: see the 2 problems above" || !strings.Contains(stdout, "good.yaml: document 1: preStop sleep\n") {
		t.Errorf("got %q, %v", stdout, err)
	}
	for _, part := range []string{`bad.yaml:1: document 1: container a: annotation "a.lifecycle-shim.io/lifecycle": stopSignal is "X"`, "preStop must have exactly one of"} {
		if !strings.Contains(stderr, part) {
			t.Errorf("it does not say %q: %s", part, stderr)
		}
	}
	if stdout, stderr, err = cli("preStop: {sleep: {seconds: 1}}", "validate", "-f", "-"); stdout != "stdin: document 1: a block with preStop sleep\n" || stderr != "" || err != nil {
		t.Errorf("got %q, %q, %v", stdout, stderr, err)
	}
	// FAULTS B9: a file without anything to check is no problem.
	if stdout, stderr, err = cli(otherYAML, "validate", "-f", "-"); !strings.HasPrefix(stdout, "nothing to check") || stderr != "" || err != nil {
		t.Errorf("got %q, %q, %v", stdout, stderr, err)
	}
	if _, stderr, err = cli(otherYAML+"---\nlifecycle:\n  preStop: {}\n", "validate", "-f", "-"); err == nil || !strings.HasPrefix(stderr, "stdin:4: document 2: lifecycle: ") {
		t.Errorf("got %q, %v", stderr, err)
	}
}

// TestHelp: each command says what it does, and its examples are of this program.
func TestHelp(t *testing.T) {
	for _, command := range newRoot().Commands() {
		if command.Name() != "convert" && command.Name() != "validate" && command.Name() != "webhook" {
			continue
		}
		stdout, _, err := cli("", command.Name(), "--help")
		if err != nil || !strings.Contains(stdout, "Examples:") || !strings.Contains(stdout, command.Long) {
			t.Errorf("%s: %v\n%s", command.Name(), err, stdout)
		}
		checkExamples(t, command)
	}
}

func checkExamples(t *testing.T, command *cobra.Command) {
	t.Helper()
	examples := 0
	for line := range strings.Lines(command.Example) {
		_, after, ok := strings.Cut(line, "lifecyclectl "+command.Name())
		if !ok {
			t.Errorf("%q is no example of %s", line, command.Name())
			continue
		}
		own, _, _ := strings.Cut(strings.NewReplacer(">", "|", ";", "|").Replace(after), "|")
		if err := command.ParseFlags(strings.Fields(own)); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		examples++
	}
	if examples == 0 {
		t.Errorf("%s has no examples", command.Name())
	}
}

// TestCompletion of flags and their values, in every shell.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if stdout, _, err := cli("", "completion", shell); err != nil || !strings.Contains(stdout, "lifecyclectl") {
			t.Errorf("%s: %v", shell, err)
		}
	}
	for want, args := range map[string][]string{
		"convert":         {"con"},
		"--runtime-class": {"convert", "--run"},
		"--tls-cert-file": {"webhook", "--tls-c"},
		"json":            {"webhook", "--log-format", ""},
		"yaml":            {"convert", "--filename", ""}, // an extension
		"--recursive":     {"validate", "--rec"},
	} {
		stdout, _, err := cli("", append([]string{"__complete"}, args...)...)
		if err != nil || !strings.Contains(stdout, want) {
			t.Errorf("%q is completed to %s (%v), without %s", args, stdout, err, want)
		}
	}
}
