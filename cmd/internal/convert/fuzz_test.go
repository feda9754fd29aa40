package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/internal/podgen"
)

// FuzzConvert: no text makes the converter panic; what it accepts it can read, and
// convert again without a change; it changes nothing but handlers; and its
// annotations pass the shim's check.
func FuzzConvert(f *testing.F) {
	manifests, err := filepath.Glob("testdata/*.in.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range manifests {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for seed := range uint64(8) {
		f.Add(podgen.JSON(seed))
	}
	for _, lifecycle := range []string{preStop, "&a {preStop: &b {sleep: {seconds: 1}}, postStart: *b}", "{<<: {preStop: {sleep: {}}}}", "{preStop: !!binary aGk=}"} {
		f.Add([]byte(fixture{lifecycle: lifecycle}.yaml()))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		result, report := Stream(text, inClass)
		before := Validate(text, inClass)
		if len(report.Refusals) > 0 {
			if result != nil {
				t.Fatalf("refused, and yet %q", result)
			}
			return
		}
		if report.Moved == 0 {
			if !bytes.Equal(text, result) {
				t.Fatalf("nothing is moved, and yet %q", result)
			}
			return
		}
		again, reportAgain := Stream(result, inClass)
		if !bytes.Equal(again, result) || reportAgain.Moved > 0 || len(reportAgain.Refusals) > 0 {
			t.Fatalf("converted twice it is %q (%v), not %q", again, reportAgain.Refusals, result)
		}
		for _, refusal := range Validate(result, inClass).Refusals {
			if !slices.Contains(before.Refusals, refusal) {
				t.Fatalf("the shim refuses what was made: %s", refusal)
			}
		}
		if was, is := kubectlReads(t, text), kubectlReads(t, result); was != "" && was != is {
			t.Fatalf("kubectl reads %s, and before %s", is, was)
		}
		if was, is := stripped(t, text), stripped(t, result); !reflect.DeepEqual(was, is) {
			t.Fatalf("more than handlers has changed: %v is %v", was, is)
		}
	})
}

// kubectlReads names the objects that kubectl finds in a stream, with its own
// decoder. It is empty where kubectl cannot read it.
func kubectlReads(t *testing.T, stream []byte) string {
	t.Helper()
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(stream), 4096)
	var names []string
	for {
		var object map[string]any // names in a struct would be taken in any case
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return strings.Join(names, ", ")
		}
		if err != nil {
			return ""
		}
		metadata, _ := object["metadata"].(map[string]any)
		names = append(names, fmt.Sprint(object["kind"], "/", metadata["name"]))
	}
}

// stripped is the meaning of a text without all that a conversion may change.
func stripped(t *testing.T, text []byte) []any {
	t.Helper()
	var all []any
	for _, d := range split(bytes.TrimPrefix(text, []byte(byteOrderMark))) {
		meaning, err := d.meaning(d.text)
		if err != nil {
			t.Fatal(err)
		}
		var tree any
		if err := json.Unmarshal(meaning, &tree); err != nil {
			t.Fatal(err)
		}
		if tree != nil {
			all = append(all, without(tree))
		}
	}
	return all
}

func without(tree any) any {
	switch value := tree.(type) {
	case []any:
		for i := range value {
			value[i] = without(value[i])
		}
	case map[string]any:
		for key, child := range value {
			switch {
			case strings.HasSuffix(key, ".lifecycle-shim.io/lifecycle"), key == "runtimeClassName", key == "postStart", key == "preStop", child == nil:
				delete(value, key)
				continue
			}
			value[key] = without(child)
			if empty, ok := value[key].(map[string]any); ok && len(empty) == 0 && slices.Contains([]string{"lifecycle", "metadata", "annotations"}, key) {
				delete(value, key)
			}
		}
	}
	return tree
}
