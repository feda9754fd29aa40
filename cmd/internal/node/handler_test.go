package node

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// TestHandlersAreTheExamples: what is installed is what deploy/containerd shows.
func TestHandlersAreTheExamples(t *testing.T) {
	const shim = "/usr/local/bin/" + shimName
	for name, h := range map[string]Handler{
		"lifecycle.toml":               {Type: ourType},
		"lifecycle-runc-cgroupfs.toml": {Type: runcType, Path: shim, Driver: cgroupfs},
		"lifecycle-runc-systemd.toml":  {Type: runcType, Path: shim, Driver: systemd},
	} {
		for dir, got := range map[string][]byte{"1.x": []byte(h.tables(2)), "2.x": h.dropin(3)} {
			wantSame(t, filepath.Join(dir, name), got)
		}
	}
	wantSame(t, "1.x/runc.toml", []byte(runcTable(2)))
}

func wantSame(t *testing.T, example string, got []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../../deploy/containerd", example))
	if err != nil {
		t.Fatal(err)
	}
	var want, have map[string]any
	if err := toml.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if err := toml.Unmarshal(got, &have); err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("%s: %v\n%s\nwant\n%s", example, err, got, text)
	}
}
