package oci

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestReadSpec(t *testing.T) {
	bundle := t.TempDir()
	if _, err := ReadSpec(bundle); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	config := `{"ociVersion":"1.0.2","annotations":{"a":"b"},"linux":{"cgroupsPath":"system.slice:cri:x"}}`
	if err := os.WriteFile(filepath.Join(bundle, configFile), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	spec, err := ReadSpec(bundle)
	if err != nil || spec.Annotations["a"] != "b" {
		t.Fatalf("got %+v, %v", spec, err)
	}
	if !spec.SystemdCgroup() {
		t.Error("slice:prefix:name asks for systemd")
	}
	spec.Linux.CgroupsPath = "/k8s.io/x"
	if spec.SystemdCgroup() {
		t.Error("a path does not ask for systemd")
	}
	if err := os.WriteFile(filepath.Join(bundle, configFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSpec(bundle); err == nil {
		t.Error("broken JSON is read")
	}
}
