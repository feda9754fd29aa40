package launch

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// TestManagerTranslatesOptions: the runc manager knows runc's options only.
func TestManagerTranslatesOptions(t *testing.T) {
	runc := &runcoptions.Options{BinaryName: "crun"}
	for name, test := range map[string]struct {
		options *anypb.Any
		want    string // the BinaryName that the runc manager finds
		found   bool
	}{
		"runc's own":           {shimtest.Any(t, runc), "crun", true},
		"TOML":                 {shimtest.InTOML(t, "BinaryName = 'crun'"), "crun", true},
		"typed":                {shimtest.Any(t, &lifecyclev1.Options{Runc: runc}), "crun", true},
		"typed without runc's": {shimtest.Any(t, &lifecyclev1.Options{}), "", false},
		"bad TOML":             {shimtest.InTOML(t, "nonsense"), "", false},
		"none":                 {nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			var seen *bootapi.BootstrapParams
			m := &Manager{Shim: answers(func(_ context.Context, params *bootapi.BootstrapParams) { seen = params })}
			given := &bootapi.BootstrapParams{InstanceID: "c1", Extensions: []*bootapi.Extension{{Value: test.options}}}
			before := proto.Clone(given)
			if _, err := m.Start(t.Context(), given); err != nil {
				t.Fatal(err)
			}
			var got runcoptions.Options
			found, err := seen.FindExtension(&got)
			if err != nil || found != test.found || got.BinaryName != test.want {
				t.Errorf("found %t, %q, %v", found, got.BinaryName, err)
			}
			if !proto.Equal(given, before) {
				t.Error("the caller's params were changed")
			}
		})
	}
}

type infoManager struct {
	shim.Shim
	options []byte
}

func (m *infoManager) Info(_ context.Context, options io.Reader) (*types.RuntimeInfo, error) {
	var err error
	m.options, err = io.ReadAll(options)
	return &types.RuntimeInfo{}, err
}

func TestInfoTakesEveryFormOfOptions(t *testing.T) {
	runc := &runcoptions.Options{BinaryName: "crun"}
	for name, test := range map[string]struct {
		options *anypb.Any
		want    string
	}{
		"none":       {nil, ""},
		"runc's own": {shimtest.Any(t, runc), "crun"},
		"TOML":       {shimtest.InTOML(t, "BinaryName = 'crun'"), "crun"},
		"typed":      {shimtest.Any(t, &lifecyclev1.Options{Runc: runc}), "crun"},
	} {
		t.Run(name, func(t *testing.T) {
			fake := &infoManager{}
			if _, err := (&Manager{Shim: fake}).Info(t.Context(), bytes.NewReader(shimtest.Marshal(t, test.options))); err != nil {
				t.Fatal(err)
			}
			if test.want == "" {
				if len(fake.options) > 0 {
					t.Errorf("got %q", fake.options)
				}
				return
			}
			var packed anypb.Any
			if err := proto.Unmarshal(fake.options, &packed); err != nil {
				t.Fatal(err)
			}
			var got runcoptions.Options
			if err := typeurl.UnmarshalTo(&packed, &got); err != nil || got.BinaryName != test.want {
				t.Errorf("got %v, %v", &got, err)
			}
		})
	}
	for name, input := range map[string][]byte{
		"no message": []byte("\xff"),
		"bad TOML":   shimtest.Marshal(t, shimtest.InTOML(t, "nonsense")),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := (&Manager{Shim: &infoManager{}}).Info(t.Context(), bytes.NewReader(input))
			var option *options.Error
			if !errors.As(err, &option) {
				t.Errorf("got %v, want an *options.Error", err)
			}
		})
	}
}

// TestStopRemovesTheSocketOfAShimThatDied, and of no other.
func TestStopRemovesTheSocketOfAShimThatDied(t *testing.T) {
	for name, served := range map[string]bool{"of a dead shim": false, "of another shim that serves it": true} {
		t.Run(name, func(t *testing.T) {
			bundle := chdirBundle(t, "")
			socket := filepath.Join(t.TempDir(), "s")
			listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			listener.SetUnlinkOnClose(false)
			defer listener.Close()
			if !served {
				listener.Close()
			}
			if err := os.WriteFile(filepath.Join(bundle, addressFile), []byte("unix://"+socket), 0o600); err != nil {
				t.Fatal(err)
			}
			want := errors.New("from the runc manager")
			m := &Manager{Shim: &fakeManager{stop: func(context.Context, string) (shim.StopStatus, error) {
				return shim.StopStatus{Pid: 5}, want
			}}}
			status, err := m.Stop(t.Context(), "c1")
			if status.Pid != 5 || !errors.Is(err, want) {
				t.Errorf("got %v, %v", status, err)
			}
			if _, err := os.Stat(socket); (err == nil) != served {
				t.Errorf("the socket: %v", err)
			}
		})
	}
}

// TestOwnSockets: they are recognised by their paths, and what a shim starts does not inherit
// them, as it inherits what containerd's runner leaves open until Go collects it.
func TestOwnSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0) // without a path
	if err != nil {
		t.Fatal(err)
	}
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	inherited := listenerFDs
	t.Cleanup(func() {
		listenerFDs = inherited
		for _, fd := range append(pair[:], listener) {
			unix.Close(fd)
		}
	})
	if err := unix.Bind(listener, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	listenerFDs = []int{listener, pair[0]}
	if own := OwnSockets(); len(own) != 1 || own[0].path != path {
		t.Errorf("own sockets %v, want %s", own, path)
	}
	if flags, err := unix.FcntlInt(uintptr(pair[0]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		t.Errorf("a socket that is not its own: flags %#x, %v", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(listener), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v: it is inherited", flags, err)
	}
}

// TestInheritedSocketsAreThoseOfTheRunner: pkg/shim passes descriptor 3, and with -debug 4.
func TestInheritedSocketsAreThoseOfTheRunner(t *testing.T) {
	const child = "LAUNCH_TEST_INHERITED"
	if os.Getenv(child) != "" {
		for _, own := range OwnSockets() {
			t.Logf("own: %s;", own.path)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestInheritedSocketsAreThoseOfTheRunner$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1")
	var paths []string
	for _, name := range []string{"task", "debug"} {
		path := filepath.Join(t.TempDir(), name)
		file, err := listenAt(t, path).(*net.UnixListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd.ExtraFiles, paths = append(cmd.ExtraFiles, file), append(paths, path)
	}
	output, err := cmd.CombinedOutput()
	for _, path := range paths {
		if err != nil || !strings.Contains(string(output), "own: "+path+";") {
			t.Errorf("%s is not in %s (%v)", path, output, err)
		}
	}
}

// TestSocketsThatAreNoShims: of another family, without an absolute path, or removed by now.
func TestSocketsThatAreNoShims(t *testing.T) {
	t.Chdir(t.TempDir())
	inherited := listenerFDs
	t.Cleanup(func() { listenerFDs = inherited })
	listenerFDs = []int{-1}
	for name, address := range map[string]unix.Sockaddr{
		"tcp": &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, "relative": &unix.SockaddrUnix{Name: "relative"},
		"removed": &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "removed")},
	} {
		family := unix.AF_UNIX
		if name == "tcp" {
			family = unix.AF_INET
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll(fd)
		if err := unix.Bind(fd, address); err != nil {
			t.Fatal(err)
		}
		if name == "removed" {
			if err := os.Remove(address.(*unix.SockaddrUnix).Name); err != nil {
				t.Fatal(err)
			}
		}
		listenerFDs = append(listenerFDs, fd)
	}
	if own := OwnSockets(); len(own) > 0 {
		t.Errorf("own sockets %v", own)
	}
	if _, err := At(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestFlagsNameNoSocketWhenTheShimHasEnded: pkg/shim removes what they name.
func TestFlagsNameNoSocketWhenTheShimHasEnded(t *testing.T) {
	t.Chdir(t.TempDir())
	tests := flag.CommandLine
	flag.CommandLine = flag.NewFlagSet("shim", flag.ContinueOnError)
	t.Cleanup(func() { flag.CommandLine = tests })
	for _, name := range []string{"socket", "debug-socket"} {
		flag.String(name, "/run/of/the/next", "")
	}
	LeaveSockets()
	for _, name := range []string{"socket", "debug-socket"} {
		if got := flag.Lookup(name).Value.String(); got == "/run/of/the/next" || got == "" {
			t.Errorf("-%s is %q", name, got)
		}
	}
}

// TestSocketsAreToldApartByFileAndTime: the kernel gives the number of a removed file to the next one.
func TestSocketsAreToldApartByFileAndTime(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own, err := At(write("own"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(own.path, time.Time{}, own.was.ModTime().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	Sockets{own}.Remove()
	if _, err := os.Lstat(own.path); err != nil {
		t.Fatal("one with its number is removed")
	}
	other := write("other")
	if err := errors.Join(os.Chtimes(other, time.Time{}, own.was.ModTime()), os.Rename(other, own.path)); err != nil {
		t.Fatal(err)
	}
	Sockets{own}.Remove()
	if _, err := os.Lstat(own.path); err != nil {
		t.Error("one with its time is removed")
	}
}

// TestRemoveSockets: its own, and not what another shim has put in its place.
func TestRemoveSockets(t *testing.T) {
	listen := func(path string) {
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		t.Cleanup(func() { listener.Close() })
	}
	var sockets Sockets
	for _, name := range []string{"own", "replaced", "gone"} {
		path := filepath.Join(t.TempDir(), name)
		listen(path)
		own, err := At(path)
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, own)
		if name != "own" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if name == "replaced" {
			listen(path)
		}
	}
	sockets.Remove()
	for i, want := range []bool{false, true, false} {
		if _, err := os.Lstat(sockets[i].path); (err == nil) != want {
			t.Errorf("%s: there %t, want %t", sockets[i].path, err == nil, want)
		}
	}
}

// TestServes: only the shim itself inherits sockets.
func TestServes(t *testing.T) {
	for args, want := range map[string]bool{
		"shim -namespace ns -id c1 -address /c.sock":        true,
		"shim -namespace ns -id c1 -address /c.sock -debug": true,
		"shim -namespace ns -id c1 delete":                  false,
		"shim -namespace ns -id c1 start":                   false,
		"shim -info":                                        false,
		"shim -v":                                           false,
		"shim":                                              false,
	} {
		if got := Serves(strings.Fields(args)); got != want {
			t.Errorf("%s: %t", args, got)
		}
	}
}
