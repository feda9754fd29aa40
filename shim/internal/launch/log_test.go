package launch

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// TestOpenLog: a bundle that is gone is an error, and a shim without a reader waits for one
// only as long as it has a bundle. pkg/shim would wait for ever.
func TestOpenLog(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := openLog(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a bundle: got %v", err)
	}
	if err := unix.Mkfifo(logPipe, 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		go func() {
			_, err := openLog(t.Context())
			ended <- err
		}()
		<-time.After(time.Hour)
		select {
		case err := <-ended:
			t.Errorf("without a reader: got %v", err)
		default:
		}
		if err := os.Remove(logPipe); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("when the bundle is removed: got %v", err)
		}
	})
}

// TestOpenLogWithReader: a line waits for a slow reader, so the descriptor blocks.
func TestOpenLogWithReader(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := unix.Mkfifo(logPipe, 0o700); err != nil {
		t.Fatal(err)
	}
	reader, err := unix.Open(logPipe, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(reader)
	fd, err := openLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fd)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// FAULTS A7: when a shim has ended, its bundle no longer names a socket. pkg/shim would remove
// what is there, and that is the socket of the group's next shim.
func TestLeaveSockets(t *testing.T) {
	t.Chdir(t.TempDir())
	next := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: next, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.WriteFile(addressFile, []byte("unix://"+next), 0o600); err != nil {
		t.Fatal(err)
	}
	LeaveSockets()
	if address, err := shim.ReadAddress(addressFile); err == nil {
		_ = shim.RemoveSocket(address) // as pkg/shim does (cleanupSockets)
	}
	if _, err := os.Lstat(next); err != nil {
		t.Errorf("the next shim's socket: %v", err)
	}
}

// TestActionsHaveShortErrors: containerd makes an error of its API from what -info and the
// delete action print.
func TestActionsHaveShortErrors(t *testing.T) {
	chdirBundle(t, "")
	cause := errors.New(strings.Repeat("<", 100_000))
	m := &Manager{Shim: &fakeManager{stop: func(context.Context, string) (shim.StopStatus, error) { return shim.StopStatus{}, cause }}}
	if _, err := m.Stop(t.Context(), "c1"); !errors.Is(err, cause) || len(RuntimeName+": "+err.Error()) > 4<<10 {
		t.Errorf("delete: %.100v", err)
	}
	options := shimtest.Marshal(t, shimtest.InTOML(t, strings.Repeat("N", 1<<20)+" = 1"))
	if _, err := m.Info(t.Context(), strings.NewReader(string(options))); err == nil || len(RuntimeName+": "+err.Error()) > 4<<10 {
		t.Errorf("-info: %.100v", err)
	}
}
