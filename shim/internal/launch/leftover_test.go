package launch

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// TestManagerIsTheRuncShims, under this runtime's name.
func TestManagerIsTheRuncShims(t *testing.T) {
	if m := NewManager(); m.Shim == nil || m.Name() != RuntimeName {
		t.Errorf("got %+v", m)
	}
}

// TestDeleteActionEndsAnOnExit that a dead shim has left running, before the runc manager removes the container. What cannot be
// removed is logged, and changes nothing of the answer.
func TestDeleteActionEndsAnOnExit(t *testing.T) {
	for name, test := range map[string]struct {
		leftover, refused bool
		runtime           string // in the bundle, empty for none
		cleaned           bool
		logged            string
	}{
		"no leftover":                 {runtime: "true"},
		"a leftover":                  {leftover: true, runtime: "true", cleaned: true},
		"that stays":                  {leftover: true, refused: true, runtime: "true", cleaned: true, logged: "still mounted"},
		"whose runtime no file names": {leftover: true, logged: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := chdirBundle(t, "")
			asked := filepath.Join(t.TempDir(), "asked")
			script := "#!/bin/sh\ncat > " + asked + "\n"
			if test.refused {
				script += "echo still mounted >&2; exit 1\n"
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, hookexec.HostBinary), []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			if test.leftover {
				if err := os.MkdirAll(filepath.Join(bundle, "lifecycle", "onExit"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if test.runtime != "" {
				if err := os.WriteFile(filepath.Join(bundle, "runtime"), []byte(test.runtime), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			logger, lines := shimtest.NewLog()
			cleanedFirst := false
			m := &Manager{Shim: &fakeManager{stop: func(context.Context, string) (shim.StopStatus, error) {
				_, err := os.Stat(asked)
				cleanedFirst = err == nil
				return shim.StopStatus{Pid: 5}, nil
			}}}
			if status, err := m.Stop(log.WithLogger(t.Context(), logger), "c1"); err != nil || status.Pid != 5 {
				t.Errorf("got %v, %v", status, err)
			}
			if cleanedFirst != test.cleaned {
				t.Errorf("the onExit is removed first: %t", cleanedFirst)
			}
			if test.cleaned {
				wantCleaned(t, asked, filepath.Join(bundle, "lifecycle", "onExit"))
			}
			all := strings.Join(lines.All(), "\n")
			if (all != "") != (test.logged != "") || !strings.Contains(all, test.logged) {
				t.Errorf("logged %q", all)
			}
		})
	}
}

// wantCleaned checks what the handler host was asked to remove.
func wantCleaned(t *testing.T, asked, dir string) {
	t.Helper()
	data, err := os.ReadFile(asked)
	if err != nil {
		t.Fatal(err)
	}
	var request wire.OnExit
	if err := json.Unmarshal(data, &request); err != nil {
		t.Fatal(err)
	}
	runtime, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil || request.Dir != dir || request.Runtime != runtime {
		t.Errorf("asked for %+v, want %s by %s: %v", request, dir, runtime, err)
	}
}

// TestRemoveDeadOfNothing waits for no lock: a shim that has ended by itself has removed its socket.
func TestRemoveDeadOfNothing(t *testing.T) {
	t.Chdir(t.TempDir())
	unlock, err := lockGroups()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	logger, lines := shimtest.NewLog()
	removeDead(log.WithLogger(t.Context(), logger), "unix://"+filepath.Join(t.TempDir(), "none"))
	if len(lines.All()) > 0 {
		t.Errorf("logged %q", lines.All())
	}
}

// TestRemoveDeadKeepsWhatItCannotCheck, and says so.
func TestRemoveDeadKeepsWhatItCannotCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	logger, lines := shimtest.NewLog()
	ctx := log.WithLogger(t.Context(), logger)
	dead := filepath.Join(t.TempDir(), "dead")
	listenAt(t, dead).Close()
	if removeDead(ctx, "unix://"+dead); len(lines.All()) > 0 {
		t.Errorf("logged %q", lines.All())
	}
	path := filepath.Join(t.TempDir(), "s")
	if err := os.Symlink(path, path); err != nil { // to itself
		t.Fatal(err)
	}
	removeDead(ctx, "unix://"+path)
	if _, err := os.Lstat(path); err != nil || len(lines.All()) != 1 || !strings.HasPrefix(lines.All()[0], "warning cannot check the socket") {
		t.Errorf("%v, logged %q", err, lines.All())
	}
}

// TestAnnouncementLeavesNoConnection: a shim would keep it as long as the start action lives.
func TestAnnouncementLeavesNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own, shims := net.Pipe()
		ended := make(chan struct{})
		go func() {
			for buffer := make([]byte, 4096); ; {
				if _, err := shims.Read(buffer); err != nil { // it does not answer
					close(ended)
					return
				}
			}
		}()
		if !announce(t.Context(), own, "c1") {
			t.Error("a shim that gets no processor is taken for one that ends")
		}
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("the connection is still open")
			_ = own.Close()
		}
	})
}
