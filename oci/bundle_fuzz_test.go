package oci

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzReadSpec: any config.json is read or refused, and what is accepted has been checked.
func FuzzReadSpec(f *testing.F) {
	for _, text := range []string{
		"", "null", "[]", "{", `{"annotations": null, "linux": null}`, `{"annotations": {"a": 1}}`, `{"annotations": []}`,
		`{"linux": {"cgroupsPath": "a.slice:b:c"}}`, `{"linux": {"cgroupsPath": ["x"]}}`, "\xff\xfe{}",
		`{"annotations": {"lifecycle-shim.io/postStart": "exec: {command: [ls]}", "io.kubernetes.pod.terminationGracePeriod": "99999999999999999999"}}`,
		`{"annotations": {"lifecycle-shim.io/lifecycle": "{preStop: {httpGet: {port: 1}}, stopSignal: SIGKILL}", "io.kubernetes.cri.container-type": "container"}}`,
		`{"annotations": {"x.lifecycle-shim.io/lifecycle": "{preStop: {sleep: {seconds: 1}}}", "io.kubernetes.cri.container-name": "x"}}`,
		`{"annotations": {"/lifecycle-shim.io": "", "lifecycle-shim.io/": "", "lifecycle-shim.io": ""}, "annotations": {"lifecycle-shim.io/preStop": "*a"}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		bundle := t.TempDir()
		if err := os.WriteFile(filepath.Join(bundle, configFile), config, 0o600); err != nil {
			t.Fatal(err)
		}
		spec, err := ReadSpec(bundle)
		if err != nil {
			return
		}
		_ = spec.SystemdCgroup()
		lifecycle, err := spec.Lifecycle()
		if invalid := (*InvalidError)(nil); err != nil && !errors.As(err, &invalid) {
			t.Errorf("%T: %v", err, err)
		}
		if problems := spec.Problems(Limits{}); (len(problems) == 0) != (err == nil) {
			t.Errorf("%v, but the problems are %v", err, problems)
		}
		if lifecycle == nil {
			return
		}
		if err != nil || lifecycle.PodGracePeriod < 0 || lifecycle.Block.PostStart == nil && lifecycle.Block.PreStop == nil {
			t.Errorf("got %+v, %v", lifecycle, err)
		}
	})
}
