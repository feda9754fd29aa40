package task

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// TestShimWithoutBundleLeavesNoSocket: a shim that begins when its bundle has been removed exits, and its socket goes.
func TestShimWithoutBundleLeavesNoSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	inherited, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	ctx, cancel := context.WithTimeout(t.Context(), bed.Limit)
	defer cancel()
	shim := exec.CommandContext(ctx, filepath.Join(bed.BinDir(t), "containerd-shim-lifecycle-v2"), "-namespace", "ns", "-id", "c1", "-address", "/none")
	shim.Dir, shim.ExtraFiles = t.TempDir(), []*os.File{inherited}
	output, err := shim.CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !strings.Contains(string(output), "open log: ") {
		t.Errorf("the shim: %v, %s", err, output)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket: %v", err)
	}
}
