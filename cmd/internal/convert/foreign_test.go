package convert

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	yamlv3 "go.yaml.in/yaml/v3"
	kyaml "sigs.k8s.io/yaml"
	yamlv2 "sigs.k8s.io/yaml/goyaml.v2"

	"github.com/lifecycle-shim/lifecycle-shim/internal/podgen"
	"github.com/lifecycle-shim/lifecycle-shim/oci/bounded"
)

// foreignShare is how many documents each emitter prints in an ordinary run. `make
// foreign` sets FOREIGN_DOCUMENTS for more.
const foreignShare = 40

// request is what an emitter gets, a line of JSON each.
type request struct {
	Seed   uint64         `json:"seed"`
	Object map[string]any `json:"object"`
}

// emitters print objects in many styles. Those of other languages are Debian's
// (.ci/deps); each answers a line with the printed text as a JSON string.
var emitters = map[string]func(*testing.T, []request) []string{
	"PyYAML":    program("/usr/bin/python3", "testdata/emitters/pyyaml.py"),
	"Psych":     program("/usr/bin/ruby", "testdata/emitters/psych.rb"),
	"js-yaml":   program("node", "testdata/emitters/jsyaml.js"),
	"yaml.v2":   each(func(r request) ([]byte, error) { return yamlv2.Marshal(r.Object) }),
	"yaml.v3":   each(emitV3),
	"sigs yaml": each(func(r request) ([]byte, error) { return kyaml.Marshal(r.Object) }),
	"JSON":      each(emitJSON),
}

// TestForeign: documents that other emitters print, with indentations from 2 to 8, all styles of scalars, in
// blocks and in braces, with anchors. Each is converted, and only by the bytes of its
// handlers; or kubectl cannot read it, or a handler is wrong in it, and the refusal names
// the line. None is refused for its style (FAULTS B3).
func TestForeign(t *testing.T) {
	share, err := strconv.Atoi(os.Getenv("FOREIGN_DOCUMENTS"))
	if err != nil {
		share = foreignShare
	}
	for name, emit := range emitters {
		t.Run(name, func(t *testing.T) {
			requests := make([]request, share)
			for i := range requests {
				requests[i] = request{uint64(i), manifest(t, uint64(i))}
			}
			counts := map[string]int{}
			for i, text := range emit(t, requests) {
				if text == "" {
					counts["not printed"]++
					continue
				}
				counts[convertForeign(t, text)]++
				if t.Failed() {
					t.Fatalf("document %d: %s", i, text)
				}
			}
			t.Logf("%v", counts)
			if counts["edited"] < (share-counts["not printed"])/2 || counts["rewritten"] > share/20 {
				t.Errorf("of %d: %v", share, counts)
			}
		})
	}
}

// convertForeign converts one, and says what became of it.
func convertForeign(t *testing.T, text string) string {
	t.Helper()
	result, report := Stream([]byte(text), inClass)
	if testing.Verbose() {
		for _, finding := range append(report.Refusals, report.Warnings...) {
			t.Logf("%d: %.200s", finding.Line, finding)
		}
	}
	for _, refusal := range report.Refusals {
		if refusal.Line == 0 || len(refusal.Text) < 10 || result != nil {
			t.Errorf("refused without a line: %s", refusal)
		}
	}
	d := split([]byte(text))[0]
	meaning, err := d.meaning(d.text)
	if err != nil || len(report.Refusals) > 0 && kubectlReads(t, []byte(text)) == "" {
		if len(report.Refusals) == 0 && (string(result) != text || mayHold([]byte(text))) {
			t.Error("kubectl cannot read it, and it is converted")
		}
		return "unreadable"
	}
	tree, _ := decodeObject(meaning)
	wrong := &Report{}
	for _, o := range objects(tree, "") {
		convertObject(wrong, inClass, o)
	}
	if len(wrong.Refusals) > 0 { // a boolean in a command, or two that share a handler with a named port
		if len(report.Refusals) != len(wrong.Refusals) {
			t.Errorf("got %v, want %v", report.Refusals, wrong.Refusals)
		}
		return "wrong handlers"
	}
	for _, refusal := range report.Refusals {
		t.Errorf("refused for its style: line %d: %s", refusal.Line, refusal)
	}
	if report.Moved == 0 && string(result) == text {
		return "no handlers"
	}
	if t.Failed() || checkUnedited(t, []byte(text)) {
		return "edited"
	}
	for _, warning := range report.Warnings {
		if strings.Contains(warning.Text, "is rewritten") {
			return "rewritten"
		}
	}
	t.Error("it is not converted")
	return ""
}

// program runs an emitter of another language once, for all requests.
func program(name string, args ...string) func(*testing.T, []request) []string {
	return func(t *testing.T, requests []request) []string {
		var input bytes.Buffer
		for _, r := range requests {
			if err := json.NewEncoder(&input).Encode(r); err != nil {
				t.Fatal(err)
			}
		}
		command := exec.CommandContext(t.Context(), name, args...)
		command.Env = append(os.Environ(), "NODE_PATH=/usr/share/nodejs", "LC_ALL=C.UTF-8")
		command.Stdin, command.Stderr = &input, os.Stderr
		output, err := command.Output()
		if err != nil {
			t.Fatalf("%s: %v; `make deps` installs it", name, err)
		}
		var texts []string
		for lines := bufio.NewReader(bytes.NewReader(output)); ; {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break
			}
			var text string
			if err := json.Unmarshal(line, &text); err != nil {
				t.Fatal(err)
			}
			texts = append(texts, text)
		}
		if len(texts) != len(requests) {
			t.Fatalf("%d texts for %d requests", len(texts), len(requests))
		}
		return texts
	}
}

func each(emit func(request) ([]byte, error)) func(*testing.T, []request) []string {
	return func(_ *testing.T, requests []request) []string {
		texts := make([]string, len(requests))
		for i, r := range requests {
			if text, err := emit(r); err == nil { // some cannot print all characters
				texts[i] = string(text)
			}
		}
		return texts
	}
}

// emitV3 prints with styles and comments by chance.
func emitV3(r request) ([]byte, error) {
	text, err := json.Marshal(r.Object)
	if err != nil {
		return nil, err
	}
	root, err := bounded.Read(string(text), limits(text))
	if err != nil {
		return nil, err
	}
	s := &stylist{Rand: rand.New(rand.NewPCG(r.Seed, 2))}
	if s.IntN(4) == 0 {
		s.share(root)
	}
	s.dress(root, 0)
	var written bytes.Buffer
	encoder := yamlv3.NewEncoder(&written)
	encoder.SetIndent(2 + s.IntN(7))
	if s.IntN(2) == 0 {
		encoder.CompactSeqIndent()
	}
	err = encoder.Encode(root)
	return written.Bytes(), err
}

func emitJSON(r request) ([]byte, error) {
	chance := rand.New(rand.NewPCG(r.Seed, 3))
	if chance.IntN(2) == 0 {
		return json.Marshal(r.Object)
	}
	return json.MarshalIndent(r.Object, "", strings.Repeat(" ", chance.IntN(9)))
}

// manifest makes an object with a pod of podgen's in it, of any kind that has one, and
// beside it what printers are known to have trouble with.
func manifest(t *testing.T, seed uint64) map[string]any {
	t.Helper()
	chance := rand.New(rand.NewPCG(seed, 4))
	var pod map[string]any
	if err := json.Unmarshal(podgen.JSON(seed), &pod); err != nil {
		t.Fatal(err)
	}
	metadata, _ := pod["metadata"].(map[string]any)
	spec, _ := pod["spec"].(map[string]any)
	containers, _ := spec["containers"].([]any)
	for _, item := range containers {
		c, _ := item.(map[string]any)
		c["args"] = []any{oddTexts[chance.IntN(len(oddTexts))], oddTexts[chance.IntN(len(oddTexts))]}
	}
	if chance.IntN(2) == 0 {
		delete(spec, "runtimeClassName")
	}
	switch chance.IntN(6) {
	case 0:
		delete(metadata, "annotations")
	case 1:
		delete(metadata, "labels")
	case 2:
		metadata["annotations"] = nil
	}
	switch chance.IntN(4) {
	case 0:
		return pod
	case 1:
		return map[string]any{"apiVersion": "v1", "kind": "List", "items": []any{pod, map[string]any{"kind": "ConfigMap", "data": map[string]any{"script": oddTexts[chance.IntN(len(oddTexts))]}}}}
	case 2:
		template := map[string]any{"metadata": metadata, "spec": spec}
		return map[string]any{"apiVersion": "batch/v1", "kind": "CronJob", "metadata": map[string]any{"name": fmt.Sprint("c", seed)}, "spec": map[string]any{
			"schedule": "*/5 * * * *", "jobTemplate": map[string]any{"spec": map[string]any{"template": template}},
		}}
	default:
		template := map[string]any{"spec": spec}
		if chance.IntN(2) == 0 {
			template["metadata"] = metadata
		}
		return map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": fmt.Sprint("d", seed), "creationTimestamp": nil}, "spec": map[string]any{
			"replicas": 3, "template": template, "strategy": map[string]any{},
		}}
	}
}

// oddTexts are printed differently by every emitter.
var oddTexts = []string{
	"", " ", "\n", "\n\n", "a\n", "a\n\n", "\na", "  a\n b\n", "a\n   b\n\n\n c\n", "a \nb\t\n", "\ta\n", "yes", "no", "on", "~", "null", "5", "0x1F", "017", "1e3", "1_000", "12:30:45",
	"2026-01-01", ".inf", "=", "<<", "- a", "a: b", "a #b", "#a", "? a", "%a", "@a", "`a`", "{a}", "[a]", "*a", "&a", "!a", "|a", ">a", "'a'", `"a"`, `a\nb`, "a'b\"c", "---", "...",
	"a\n---\nb\n", "é", "日本語", "😀", "\u0085", "\u2028", "\ufeff", "\u00a0", "\r\n", "a\r\nb", "\x07", "\x7f",
	strings.Repeat("word ", 60), strings.Repeat("word", 60), strings.Repeat("a\n  b\n", 5) + "c", "#!/bin/sh\nset -e\n\nif true; then\n  echo a   \nfi\n# end\n",
}
