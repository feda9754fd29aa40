package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// bundleWith returns a bundle with the text as its config.json.
func bundleWith(t *testing.T, config string) string {
	t.Helper()
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, configFile), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return bundle
}

func TestReadSpec(t *testing.T) {
	if _, err := ReadSpec(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "read the bundle's spec") {
		t.Errorf("no file: got %v", err)
	}
	spec, err := ReadSpec(bundleWith(t, `{"ociVersion":"1.0.2","annotations":{"a.b/c":"d","lifecycle-shim.io/x":"1","x.lifecycle-shim.io/lifecycle":"2",`+
		`"io.kubernetes.cri.sandbox-id":"3","io.containerd.runc.v2.group":"4","lifecycle-shim.io/null":null},"linux":{"cgroupsPath":"system.slice:cri:x"},"Annotations":{"io.kubernetes.x":"5"}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"lifecycle-shim.io/x": "1", "x.lifecycle-shim.io/lifecycle": "2", "io.kubernetes.cri.sandbox-id": "3",
		"io.containerd.runc.v2.group": "4", "lifecycle-shim.io/null": "", "io.kubernetes.x": "5",
	}
	if !maps.Equal(spec.Annotations, want) {
		t.Errorf("got %v", spec.Annotations)
	}
	if !spec.SystemdCgroup() {
		t.Error("slice:prefix:name asks for systemd")
	}
	for _, path := range []string{"/k8s.io/x", "a:b", "a:b:c:d", ""} {
		if spec.Linux.CgroupsPath = path; spec.SystemdCgroup() {
			t.Errorf("%q does not ask for systemd", path)
		}
	}
	if spec, err := ReadSpec(bundleWith(t, `{"annotations":null}`)); err != nil || len(spec.Annotations) != 0 {
		t.Errorf("no annotations: got %v, %v", spec, err)
	}
}

func TestReadSpecRefuses(t *testing.T) {
	many := func(n int) string {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, `%q:"",`, fmt.Sprintf("x%d.lifecycle-shim.io/lifecycle", i))
		}
		return `{"annotations":{` + strings.TrimSuffix(text.String(), ",") + `}}`
	}
	for name, test := range map[string]struct{ config, says string }{
		"broken":                          {"{", "unexpected end of JSON input"},
		"a list":                          {`{"annotations":[]}`, "annotations must be an object, not []"},
		"a text":                          {`{"annotations":"` + strings.Repeat("x", 1000) + `"}`, `annotations must be an object, not "xxxxxxxxxxxxxxxx…`},
		"a number":                        {`{"annotations":{"` + strings.Repeat("x", 1000) + `":1}}`, `x…" must be a string`},
		"an annotation that is a mapping": {`{"annotations":{"a":{"b":"c"}}}`, `the annotation "a" must be a string`},
		"a number beyond float64":         {`{"annotations":{"lifecycle-shim.io/x":1e400}}`, "cannot unmarshal number 1e400"},
		"a number for all":                {`{"annotations":1e400}`, "cannot unmarshal number 1e400"},
		"a huge number for a path":        {`{"linux":{"cgroupsPath":` + strings.Repeat("1", 100_000) + `}}`, "cannot unmarshal number"},
		"too many annotations":            {many(maxAnnotations + 1), "has more than 4096 annotations for lifecycle-shim.io, containerd and Kubernetes"},
		"too long":                        {strings.Repeat(" ", maxConfig-1) + "{}", "is 16777217 bytes long; at most 16777216 are allowed"},
	} {
		bundle := bundleWith(t, test.config)
		_, err := ReadSpec(bundle)
		if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), configFile) || len(err.Error()) > maxAnswer {
			t.Errorf("%s: got %.300v, want %q", name, err, test.says)
		}
	}
	for name, config := range map[string]string{
		"the most annotations": many(maxAnnotations), "the most bytes": strings.Repeat(" ", maxConfig-2) + "{}",
		"annotations of others": strings.ReplaceAll(many(2*maxAnnotations), domain, "example.com"),
	} {
		if _, err := ReadSpec(bundleWith(t, config)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The text of an encoding/json error is cut, so that it does not fill a log.
func TestReadSpecErrorIsShort(t *testing.T) {
	bundle := bundleWith(t, `{"annotations":{"lifecycle-shim.io/x":`+strings.Repeat("1", 100_000)+`}}`)
	_, err := ReadSpec(bundle)
	if err == nil {
		t.Fatal("no error")
	}
	if text := strings.TrimPrefix(err.Error(), "decode "+filepath.Join(bundle, configFile)+": "); len(text) != 512 {
		t.Errorf("%d bytes: %.100s", len(text), text)
	}
}

// A read error is returned unchanged, not as a JSON error.
func TestReadSpecCannotRead(t *testing.T) {
	bundle := t.TempDir()
	if err := os.Mkdir(filepath.Join(bundle, configFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSpec(bundle); !errors.Is(err, syscall.EISDIR) {
		t.Errorf("got %v", err)
	}
}

// A shim reads a spec for each container of its pod, so no descriptor may stay open.
func TestReadSpecClosesTheFile(t *testing.T) {
	for name, config := range map[string]string{"read": "{}", "too long": strings.Repeat(" ", maxConfig+1)} {
		bundle := bundleWith(t, config)
		_, _ = ReadSpec(bundle)
		open, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, descriptor := range open {
			if path, _ := os.Readlink(descriptor); path == filepath.Join(bundle, configFile) {
				t.Errorf("%s: %s is still open", name, descriptor)
			}
		}
	}
}
