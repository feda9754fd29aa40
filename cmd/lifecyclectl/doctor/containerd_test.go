package doctor

import (
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
)

func TestConfigOf(t *testing.T) {
	for arguments, want := range map[string]string{
		"":                                     defaultConfig,
		"--log-level debug":                    defaultConfig,
		"-c /a":                                "/a",
		"--config /a":                          "/a",
		"-config=/a":                           "/a",
		"--config=/a=b":                        "/a=b",
		"--address -c --config /a":             "/a", // the address is "-c"
		"--root=/r --state /s -a /x -c /a":     "/a",
		"-c /a -c /b":                          "/b",
		"-c a/b":                               "/work/a/b",
		"-c":                                   "",
		"config dump":                          "",
		"--config /a config dump":              "",
		"--address /x publish --topic /t":      "",
		"--address=/x --config /a oci-hook":    "",
		"--log-level=debug --root /r -c=/a -h": "/a",
	} {
		process := &trust.Process{Args: append([]string{"containerd"}, strings.Fields(arguments)...), Dir: "/work"}
		if got, ok := configOf(process); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t, want %q", arguments, got, ok, want)
		}
	}
}

func TestContainerdNames(t *testing.T) {
	for name, want := range map[string]bool{
		"containerd": true, "containerd-1.7": true, "containerd-2": true, "k3s": true, "rke2": true,
		"containerd-shim-runc-v2": false, "containerd-stress": false, "k3s-server": false, "xcontainerd": false, "ctr": false,
	} {
		if containerdNames.MatchString(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
}
