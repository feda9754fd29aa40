package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runc/libcontainer"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// TestPrepareReadsWhatTheRuntimeEdits: a handler is prepared from the config.json after the container was created. A runtime that
// wraps another one edits it in place before that, and Prepare may read a half-written file.
func TestPrepareReadsWhatTheRuntimeEdits(t *testing.T) {
	const start = `{"process": {"args": ["x"], "cwd": "/", "user": {"uid": 1}, "env": ["A=`
	config := func(env, seccomp string) string {
		return start + env + `"]}, "root": {"path": "r"}, "linux": {"namespaces": [{"type": "pid"}]` + seccomp + `}}`
	}
	const profile = `, "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}`
	for name, before := range map[string]string{
		"nothing yet":     "",
		"half of it":      start,
		"the same":        config("after", profile),
		"another":         config("before", profile),
		"without profile": config("before", ""),
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			t.Chdir(bundle) // Prepare does too; this restores it afterwards
			write := func(text string) {
				if err := os.WriteFile("config.json", []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(before)
			root := filepath.Join(bundle, "lifecycle")
			err := Prepare(wire.PrepareRequest{Root: root, ID: id, Bundle: bundle}, func() (wire.Init, error) {
				write(config("after", profile))
				return this()
			})
			if err != nil {
				t.Fatal(err)
			}
			own, err := readExtraState(wire.StartRequest{Root: root, ID: id})
			if err != nil {
				t.Fatal(err)
			}
			if own.Process.Env[0] != "A=after" || !own.Filter {
				t.Errorf("the handler's process is %+v", own)
			}
			container, err := libcontainer.Load(root, id)
			if err != nil {
				t.Fatal(err)
			}
			if config := container.Config(); config.Seccomp == nil {
				t.Error("the state has no seccomp profile")
			}
		})
	}
}

// TestPrepareDoesItOnce: if config.json has not changed since before the container was created, it is not converted again. The
// conversion changes to the bundle's directory, so the working directory shows whether it happened again.
func TestPrepareDoesItOnce(t *testing.T) {
	bundle, elsewhere := t.TempDir(), t.TempDir()
	t.Chdir(bundle) // Prepare does too; this restores it afterwards
	if err := writeJSON("config.json", smallSpec()); err != nil {
		t.Fatal(err)
	}
	for _, edited := range []bool{false, true} {
		err := Prepare(wire.PrepareRequest{Root: filepath.Join(bundle, "lifecycle"), ID: id, Bundle: bundle}, func() (wire.Init, error) {
			if edited {
				spec := smallSpec()
				spec.Process.Env = []string{"A=edited"}
				if err := writeJSON(filepath.Join(bundle, "config.json"), spec); err != nil {
					return wire.Init{}, err
				}
			}
			if err := os.Chdir(elsewhere); err != nil {
				return wire.Init{}, err
			}
			return this()
		})
		if err != nil {
			t.Fatal(err)
		}
		dir, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		if again := dir == bundle; again != edited {
			t.Errorf("edited: %t, converted again: %t (in %s)", edited, again, dir)
		}
	}
}
