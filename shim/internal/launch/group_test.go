package launch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// TestOneStartOfAGroupAtATime: the directory of the bundles is locked while the
// shim of the group is looked for, and only then.
func TestOneStartOfAGroupAtATime(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		locked bool
	}{
		"a pod's":           {`{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}`, true},
		"a group's":         {`{"annotations": {"io.containerd.runc.v2.group": "pod"}}`, true},
		"a single one":      {`{"annotations": {"a": "b"}}`, false},
		"a bundle of none":  {"", false},
		"a broken bundle":   {"{", false},
		"an empty group id": {`{"annotations": {"io.containerd.runc.v2.group": ""}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := chdirBundle(t, test.config)
			called := false
			manager := answers(func(context.Context, *bootapi.BootstrapParams) {
				called = true
				if got := isLocked(t, filepath.Dir(bundle)); got != test.locked {
					t.Errorf("locked during the start: %t", got)
				}
			})
			if err := Start(t.Context(), manager, startArgs, strings.NewReader(""), io.Discard); err != nil {
				t.Fatal(err)
			}
			if !called || isLocked(t, filepath.Dir(bundle)) {
				t.Errorf("called: %t; the lock must not outlive the start", called)
			}
		})
	}
}

// TestStartFindsTheShimOfAGroup: one that lives is never replaced, and one whose
// state cannot be known is not either.
func TestStartFindsTheShimOfAGroup(t *testing.T) {
	const config = `{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}`
	for name, test := range map[string]struct {
		before func(t *testing.T, path string)
		starts bool
		fails  string
	}{
		"no socket":      {func(*testing.T, string) {}, true, ""},
		"a dead one's":   {func(t *testing.T, path string) { listenAt(t, path).Close() }, true, ""},
		"a living one's": {func(t *testing.T, path string) { listenAt(t, path) }, false, ""},
		"no socket at all": {
			func(t *testing.T, path string) {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}, true, "",
		},
		"one that cannot be reached": {
			func(t *testing.T, path string) {
				if err := os.Symlink(path, path); err != nil { // to itself
					t.Fatal(err)
				}
			}, false, `the shim of "pod": connect to its socket: `,
		},
	} {
		t.Run(name, func(t *testing.T) {
			chdirBundle(t, config)
			dir, err := os.MkdirTemp("/tmp", "") // a socket's path must be short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			address, err := shim.CreateSocketAddress(namespaces.WithNamespace(t.Context(), "ns"), dir, "/c.sock", "pod", false)
			if err != nil {
				t.Fatal(err)
			}
			test.before(t, strings.TrimPrefix(address, "unix://"))
			started := false
			manager := answers(func(context.Context, *bootapi.BootstrapParams) { started = true })
			params := shimtest.Marshal(t, &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns", ContainerdGrpcAddress: "/c.sock", SocketDir: proto.String(dir)})
			var stdout bytes.Buffer
			err = Start(t.Context(), manager, startArgs, bytes.NewReader(params), &stdout)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) || started || stdout.Len() > 0 {
					t.Errorf("got %v, %q; a new one was started: %t", err, stdout.String(), started)
				}
				return
			}
			if err != nil || started != test.starts || !started && stdout.String() != address {
				t.Errorf("got %v, %q; a new one was started: %t", err, stdout.String(), started)
			}
		})
	}
}

// listenAt listens on a socket that stays when it is closed, as a killed shim's
// does.
func listenAt(t *testing.T, path string) net.Listener {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// TestFullBacklogIsNotDead: a shim that accepts nothing for a while is waited for,
// and nothing is concluded.
func TestFullBacklogIsNotDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for { // until there is no room
		conn, err := net.DialTimeout("unix", path, 50*time.Millisecond)
		if err != nil {
			break
		}
		defer conn.Close()
	}
	began := time.Now()
	if served, err := isServed("unix://"+path, 100*time.Millisecond); err == nil || time.Since(began) < 100*time.Millisecond {
		t.Errorf("after %s: got %t, %v", time.Since(began), served, err)
	}
}

// The lock is waited for as long as there is time, and each try closes what it has opened.
func TestLockGroupsSoon(t *testing.T) {
	bundles := filepath.Dir(chdirBundle(t, ""))
	synctest.Test(t, func(t *testing.T) {
		unlock, err := lockGroups()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := lockGroupsSoon(ctx); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("got %v", err)
		}
		if open := openAt(t, bundles); open != 1 {
			t.Errorf("%d descriptors of the directory are open", open)
		}
		time.AfterFunc(time.Second, unlock)
		began := time.Now()
		unlockSoon, err := lockGroupsSoon(t.Context())
		if err != nil || time.Since(began) < time.Second {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
		unlockSoon()
	})
}

// openAt counts the descriptors of a path.
func openAt(t *testing.T, path string) int {
	t.Helper()
	descriptors, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	open := 0
	for _, descriptor := range descriptors {
		if target, _ := os.Readlink(descriptor); target == path {
			open++
		}
	}
	return open
}

func isLocked(t *testing.T, dir string) bool {
	t.Helper()
	opened, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	err = unix.Flock(int(opened.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatal(err)
	}
	return err != nil
}
