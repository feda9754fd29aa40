package trust

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// ownInodes are those of this process's sockets.
func ownInodes(t *testing.T) *Process {
	t.Helper()
	p := &Process{PID: os.Getpid()}
	if err := p.read("/proc/self"); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSockets: a name may contain any characters (FAULTS A4). A process could bind a name
// that looks like a row of /proc/net/unix with a shim's socket.
func TestSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	raw, err := listener.(*net.UnixListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var own unix.Stat_t
	if err := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &own) }); err != nil {
		t.Fatal(err)
	}
	row := "0: 00000002 00000000 00010000 0001 01 " + strconv.FormatUint(own.Ino, 10) + " "
	for _, name := range []string{"@z\n" + row + "/fake", "@z" + strconv.Itoa(os.Getpid()) + "\n" + row + "@fake"} {
		abstract, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		defer abstract.Close()
	}
	withNewline, err := net.Listen("unix", filepath.Join(filepath.Dir(path), "a b\n"+row+"x"))
	if err != nil {
		t.Fatal(err)
	}
	defer withNewline.Close()
	sockets, err := ReadSockets()
	if err != nil {
		t.Fatal(err)
	}
	got := sockets.ListenedBy(ownInodes(t))
	slices.Sort(got)
	if want := []string{withNewline.Addr().String(), path}; !slices.Equal(got, want) {
		t.Errorf("listens on %q, want %q", got, want)
	}
	if got := sockets.ListenedBy(&Process{}); got != nil {
		t.Errorf("another process listens on %q", got)
	}
}

// TestPathsOfAnyLength: the attribute of a name is padded to 4 bytes, or not.
func TestPathsOfAnyLength(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for _, name := range []string{"a", "ab", "abc", "abcd", "abcde"} {
		listener, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		want = append(want, listener.Addr().String())
	}
	sockets, err := ReadSockets()
	if err != nil {
		t.Fatal(err)
	}
	got := sockets.ListenedBy(ownInodes(t))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("listens on %q, want %q", got, want)
	}
}

func TestConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for range 2 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
	}
	sockets, err := ReadSockets()
	if err != nil {
		t.Fatal(err)
	}
	if got := sockets.Connections(ownInodes(t), path); got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
	// Any user can have connections of that name, in a root directory of his own.
	if got := sockets.Connections(&Process{}, path); got != 0 {
		t.Errorf("another process has %d connections, want 0", got)
	}
}

// TestInodesThatAreUsedAgain: the kernel numbers sockets with 32 bits, so that another
// user's socket can come to have the number of a shim's.
func TestInodesThatAreUsedAgain(t *testing.T) {
	p := &Process{inodes: map[uint32]bool{1: true, 2: true, 3: true}}
	sockets := Sockets{{1, listening, "/his"}, {1, listening, "/shim"}, {2, listening, "/b"}, {2, listening, "/b"}, {3, established, "/x"}, {3, listening, "/a"}}
	if got := sockets.ListenedBy(p); !slices.Equal(got, []string{"/a", "/b"}) {
		t.Errorf("listens on %q", got)
	}
}

// TestDial: only root's listeners are connected to, and a process's own by that process.
func TestDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, pid, err := Dial(t.Context(), path)
	if os.Getuid() != 0 {
		if err == nil {
			t.Error("a listener of another user than root is taken")
		}
		return
	}
	if err != nil || pid != os.Getpid() {
		t.Fatalf("process %d, %v", pid, err)
	}
	_ = conn.Close()
	own := &Process{PID: os.Getpid()}
	if conn, err = own.Dial(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if _, err := (&Process{PID: 1}).Dial(t.Context(), path); err == nil {
		t.Error("another process's listener is taken")
	}
}
