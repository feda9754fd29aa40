package shim

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestShowSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	var out, errOut bytes.Buffer
	if status := showSettings(path, &out, &errOut); status != 0 || !strings.Contains(out.String(), `"OutputLimit":4096`) {
		t.Errorf("without a file: status %d, %q, %q", status, out.String(), errOut.String())
	}
	if err := os.WriteFile(path, []byte("MetricsFile = '/x/y.prom'"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	var shown struct{ MetricsFile, DefaultGracePeriod string }
	if status := showSettings(path, &out, &errOut); status != 0 || json.Unmarshal(out.Bytes(), &shown) != nil || shown.MetricsFile != "/x/y.prom" || shown.DefaultGracePeriod != "10s" {
		t.Errorf("status %d, %q", status, out.String())
	}
	if err := os.WriteFile(path, []byte("MetricFile = '/x/y.prom'"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if status := showSettings(path, &out, &errOut); status != 1 || out.Len() > 0 || !strings.Contains(errOut.String(), "MetricFile") || !strings.Contains(errOut.String(), path) {
		t.Errorf("a bad file: status %d, %q, %q", status, out.String(), errOut.String())
	}
}
