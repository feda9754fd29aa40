package host

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// TestClean: Clean deletes the runtime's container, and removes all files even if that fails.
func TestClean(t *testing.T) {
	e := newEnded(t)
	e.onExit.SystemdCgroup = true
	if err := Clean(e.onExit); err != nil { // no onExit was started
		t.Error(err)
	}
	if _, err := os.Stat(e.onExit.Dir + ".lock"); !os.IsNotExist(err) {
		t.Errorf("nothing was begun, and there is a lock: %v", err)
	}
	fds := descriptors(t)
	begin := func() {
		t.Helper()
		for _, name := range []string{"c1-onExit", ".cache"} {
			if err := os.MkdirAll(filepath.Join(e.onExit.Dir, "runtime", name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	begin()
	if err := Clean(e.onExit); err != nil {
		t.Error(err)
	}
	if got := e.calls(); got != "--systemd-cgroup delete --force c1-onExit\n" {
		t.Errorf("the runtime's calls are %q", got)
	}
	if _, err := os.Stat(e.onExit.Dir); !os.IsNotExist(err) {
		t.Errorf("files are left: %v", err)
	}
	if info, err := os.Stat(e.onExit.Dir + ".lock"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the lock: %v", err)
	}
	if after := descriptors(t); !slices.Equal(after, fds) {
		t.Errorf("descriptors are %q, before %q", after, fds)
	}
	begin()
	e.write("fails-delete", `{"level":"error","msg":"busy"}`)
	if err := Clean(e.onExit); err == nil || err.Error() != "runtime delete: busy" {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(e.onExit.Dir); !os.IsNotExist(err) {
		t.Errorf("files are left: %v", err)
	}
	begin()
	request, err := json.Marshal(e.onExit)
	if err != nil {
		t.Fatal(err)
	}
	if text, status := command(t, string(request), wire.CommandClean); text != "runtime delete: busy\n" || status != 1 { // the error is from the log, not from the runtime's stderr
		t.Errorf("the command says %q, %d", text, status)
	}
	if err := os.Remove(e.onExit.Dir + ".lock"); err != nil {
		t.Error(err)
	}
	if err := errorsOf(os.MkdirAll(e.onExit.Dir, 0o700), os.Mkdir(e.onExit.Dir+".lock", 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := Clean(e.onExit); err == nil || !strings.Contains(err.Error(), "onExit.lock") {
		t.Errorf("without a lock: %v", err)
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
