package doctor

import (
	"reflect"
	"testing"
)

func TestKubeletDriver(t *testing.T) {
	for text, want := range map[string]string{
		"": cgroupfs, "kind: KubeletConfiguration\n": cgroupfs, "cgroupDriver: systemd\n": systemd, "cgroupDriver: cgroupfs": cgroupfs,
		`{"cgroupDriver": "systemd"}`: systemd, "\t": cgroupfs,
	} {
		if got := kubeletDriver([]byte(text)); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestParseDump(t *testing.T) {
	want := map[string]Runtime{"x": {
		Type: "t", Path: "/p", PodAnnotations: []string{"a/*"}, ContainerAnnotations: []string{"b", "c"}, Options: map[string]any{"SystemdCgroup": true},
	}}
	for _, section := range []string{oldCRI, newCRI} {
		text := "version = 2\ndisabled_plugins = ['" + section + "']\n[plugins.'" + section + "'.containerd.runtimes.x]\nruntime_type = 't'\nruntime_path = '/p'\n" +
			"pod_annotations = ['a/*']\ncontainer_annotations = ['b', 'c']\n[plugins.'" + section + "'.containerd.runtimes.x.options]\nSystemdCgroup = true\n"
		found, disabled, err := parseDump([]byte(text))
		if err != nil || !disabled || !reflect.DeepEqual(found.Runtimes, want) {
			t.Errorf("%s: %+v, %t, %v", section, found, disabled, err)
		}
	}
	if found, disabled, err := parseDump([]byte("version = 3\n")); err != nil || disabled || len(found.Runtimes) > 0 {
		t.Errorf("%+v, %t, %v", found, disabled, err)
	}
	if _, _, err := parseDump([]byte("version = ")); err == nil {
		t.Error("what is no TOML is taken")
	}
}

func TestParseStatus(t *testing.T) {
	found, err := parseStatus(`{"containerd": {"runtimes": {"x": {"runtimeType": "t", "runtimePath": "/p", "PodAnnotations": ["a"], "ContainerAnnotations": null, "options": null}}}}`)
	if err != nil || !reflect.DeepEqual(found.Runtimes, map[string]Runtime{"x": {Type: "t", Path: "/p", PodAnnotations: []string{"a"}}}) {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := parseStatus(""); err == nil {
		t.Error("no configuration is taken")
	}
}
