package options

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func TestShowSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	var out, errOut bytes.Buffer
	if status := Show(path, &out, &errOut); status != 0 || !strings.Contains(out.String(), `"OutputLimit":4096`) {
		t.Errorf("without a file: status %d, %q, %q", status, out.String(), errOut.String())
	}
	if err := os.WriteFile(path, []byte("MetricsFile = '/x/y.prom'"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	var shown struct{ MetricsFile, DefaultGracePeriod string }
	if status := Show(path, &out, &errOut); status != 0 || json.Unmarshal(out.Bytes(), &shown) != nil || shown.MetricsFile != "/x/y.prom" || shown.DefaultGracePeriod != "10s" {
		t.Errorf("status %d, %q", status, out.String())
	}
	if err := os.WriteFile(path, []byte("MetricFile = '/x/y.prom'"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if status := Show(path, &out, &errOut); status != 1 || out.Len() > 0 || !strings.Contains(errOut.String(), "MetricFile") || !strings.Contains(errOut.String(), path) {
		t.Errorf("a bad file: status %d, %q, %q", status, out.String(), errOut.String())
	}
}

// TestSettingsExample: deploy/config.toml changes nothing as it is, names every
// setting, and shows for each what holds without it.
func TestSettingsExample(t *testing.T) {
	const example = "../../../deploy/config.toml"
	none, err := (&Options{}).Settings(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := (&Options{}).Settings(example)
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
	got, err = (&Options{}).Settings(uncommented)
	file := got.MetricsFile
	got.MetricsFile = ""
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
