package launch

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// startArgs are containerd's, for the container c1 of the namespace ns.
var startArgs = []string{
	"shim", "-namespace", "ns", "-address", "/run/c.sock", "-publish-binary", "/bin/containerd", "-id", "c1", "start",
}

func TestIsStart(t *testing.T) {
	for args, want := range map[string]bool{
		"shim":                       false,
		"start":                      false, // the program's own name
		"shim start":                 true,
		"shim -namespace ns start":   true,
		"shim start -namespace ns":   false,
		"shim -namespace ns delete":  false,
		"shim -namespace ns":         false,
		"shim -id start -socket x":   false,
		"shim -namespace ns restart": false,
	} {
		if got := IsStart(strings.Fields(args)); got != want {
			t.Errorf("%q: got %t", args, got)
		}
	}
}

func TestStartParams(t *testing.T) {
	t.Setenv("TTRPC_ADDRESS", "/run/c.sock.ttrpc")
	runc := &runcoptions.Options{BinaryName: "crun"}
	legacy := func(more func(*bootapi.BootstrapParams)) *bootapi.BootstrapParams {
		params := &bootapi.BootstrapParams{
			InstanceID: "c1", Namespace: "ns", ContainerdGrpcAddress: "/run/c.sock", ContainerdBinary: "/bin/containerd",
			ContainerdTtrpcAddress: "/run/c.sock.ttrpc",
		}
		if more != nil {
			more(params)
		}
		return params
	}
	current := &bootapi.BootstrapParams{
		InstanceID: "c1", Namespace: "ns", ContainerdVersion: "2.4.2", ContainerdTtrpcAddress: "/other.ttrpc",
		SocketDir: proto.String("/run/s"), LogLevel: bootapi.LogLevel_LOG_LEVEL_DEBUG,
	}
	if err := current.AddExtension(runc); err != nil {
		t.Fatal(err)
	}
	other := proto.Clone(current).(*bootapi.BootstrapParams)
	other.InstanceID = "c2"
	debug := append([]string{"shim", "-debug"}, startArgs[1:]...)
	for name, test := range map[string]struct {
		args  []string
		stdin []byte
		want  *bootapi.BootstrapParams
	}{
		"2.3 and later: BootstrapParams": {startArgs, shimtest.Marshal(t, current), current},
		"before: nothing":                {startArgs, nil, legacy(nil)},
		"before: nothing, with -debug": {debug, nil, legacy(func(p *bootapi.BootstrapParams) {
			p.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
		})},
		"before: the runtime's options": {startArgs, shimtest.Marshal(t, shimtest.Any(t, runc)), legacy(func(p *bootapi.BootstrapParams) {
			p.Extensions = []*bootapi.Extension{{Value: shimtest.Any(t, runc)}}
		})},
		"2.3 and later, cut": {startArgs, append(shimtest.Marshal(t, current), 0xff), legacy(nil)},
		"with -bundle":       {append([]string{"shim", "-bundle", "/b"}, startArgs[1:]...), nil, legacy(nil)},
		"no message at all":  {startArgs, []byte("\xff\xff\xff garbage"), legacy(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := startParams(test.args, bytes.NewReader(test.stdin))
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, test.want) {
				t.Errorf("got  %v\nwant %v", got, test.want)
			}
		})
	}
	t.Run("params of another container are not ours", func(t *testing.T) {
		got, err := startParams(startArgs, bytes.NewReader(shimtest.Marshal(t, other)))
		if err != nil {
			t.Fatal(err)
		}
		if got.InstanceID != "c1" || got.SocketDir != nil {
			t.Errorf("got %v", got)
		}
		if found, err := got.FindExtension(&runcoptions.Options{}); found || err != nil {
			t.Errorf("another container's options were taken: %t, %v", found, err)
		}
	})
	t.Run("params of another namespace are not ours", func(t *testing.T) {
		other := proto.Clone(current).(*bootapi.BootstrapParams)
		other.Namespace = "other"
		got, err := startParams(startArgs, bytes.NewReader(shimtest.Marshal(t, other)))
		if err != nil || got.Namespace != "ns" || got.SocketDir != nil {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestStartParamsThatAreRefused(t *testing.T) {
	for name, args := range map[string]string{
		"no flags":        "shim start",
		"no id":           "shim -namespace ns start",
		"no namespace":    "shim -id c1 start",
		"an empty id":     "shim -namespace ns -id= start",
		"an unknown flag": "shim -namespace ns -id c1 -nonsense start",
	} {
		t.Run(name, func(t *testing.T) {
			if params, err := startParams(strings.Fields(args), strings.NewReader("")); err == nil {
				t.Errorf("got %v", params)
			}
		})
	}
	t.Run("nothing is printed", func(t *testing.T) { // containerd shows it in its error
		stderr := os.Stderr
		defer func() { os.Stderr = stderr }()
		file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		os.Stderr = file
		_, _ = startParams([]string{"shim", "-nonsense", "start"}, strings.NewReader(""))
		if printed, err := os.ReadFile(file.Name()); err != nil || len(printed) > 0 {
			t.Errorf("%q, %v", printed, err)
		}
	})
	t.Run("help is no start", func(t *testing.T) {
		if _, err := startParams([]string{"shim", "-help", "start"}, strings.NewReader("")); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stdin that cannot be read", func(t *testing.T) {
		broken := errors.New("broken")
		if _, err := startParams(startArgs, iotest.ErrReader(broken)); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

// fakeManager stands for containerd's runc manager.
type fakeManager struct {
	shim.Shim
	start func(context.Context, *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error)
	stop  func(context.Context, string) (shim.StopStatus, error)
}

func (m *fakeManager) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	return m.start(ctx, params)
}

func (m *fakeManager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	return m.stop(ctx, id)
}

const testAddress = "unix:///run/containerd/s/abc"

// answers is a manager that has started a shim; saw runs meanwhile.
func answers(saw func(context.Context, *bootapi.BootstrapParams)) *fakeManager {
	return &fakeManager{start: func(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
		if saw != nil {
			saw(ctx, params)
		}
		return &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: testAddress}, nil
	}}
}

// chdirBundle makes a bundle, in a directory of bundles, the working directory.
func chdirBundle(t *testing.T, config string) string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "c1")
	if err := os.Mkdir(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if config != "" {
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(bundle)
	return bundle
}

func TestStartPrintsThePlainAddressAndNothingElse(t *testing.T) {
	chdirBundle(t, "")
	var stdout bytes.Buffer
	var namespace string
	manager := answers(func(ctx context.Context, _ *bootapi.BootstrapParams) { namespace, _ = namespaces.Namespace(ctx) })
	if err := Start(t.Context(), manager, startArgs, strings.NewReader(""), &stdout); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != testAddress {
		t.Errorf("stdout is %q", stdout.String())
	}
	if got, err := shim.ReadAddress(addressFile); err != nil || got != testAddress {
		t.Errorf("the address file says %q, %v", got, err)
	}
	if info, err := os.Stat(addressFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the address file: %v, %v", info, err)
	}
	if namespace != "ns" {
		t.Errorf("the manager was called in the namespace %q", namespace)
	}
	if _, err := os.Lstat(socketDirLink); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a link to a socket directory that no option names: %v", err)
	}
}

func TestStartRemembersTheSocketDirectory(t *testing.T) {
	chdirBundle(t, "")
	params := &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns", SocketDir: proto.String("/run/elsewhere")}
	manager := answers(func(context.Context, *bootapi.BootstrapParams) {
		// Before the shim is there: it may end at any time.
		if dir, err := os.Readlink(socketDirLink); err != nil || dir != "/run/elsewhere" {
			t.Errorf("the link leads to %q, %v", dir, err)
		}
	})
	for range 2 { // a second one finds it there
		if err := Start(t.Context(), manager, startArgs, bytes.NewReader(shimtest.Marshal(t, params)), io.Discard); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStartThatFailsPrintsNothing(t *testing.T) {
	for name, config := range map[string]string{"a single container's": "", "a pod's": `{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}`} {
		t.Run(name, func(t *testing.T) { startThatFails(t, config) })
	}
}

func startThatFails(t *testing.T, config string) {
	chdirBundle(t, config)
	refused := errors.New("refused")
	manager := &fakeManager{start: func(context.Context, *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
		return nil, refused
	}}
	var stdout bytes.Buffer
	if err := Start(t.Context(), manager, startArgs, strings.NewReader(""), &stdout); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if stdout.Len() > 0 {
		t.Errorf("stdout is %q", stdout.String())
	}
	if _, err := os.Stat(addressFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is an address file of a shim that is not: %v", err)
	}
}

// What the start action cannot do is refused before a shim is started: it would be lost.
func TestStartThatIsRefusedStartsNothing(t *testing.T) {
	manager := answers(func(context.Context, *bootapi.BootstrapParams) { t.Error("a shim is started") })
	chdirBundle(t, "")
	if err := Start(t.Context(), manager, []string{"shim", "start"}, strings.NewReader(""), io.Discard); err == nil {
		t.Error("without an id: no error")
	}
	if err := os.RemoveAll(chdirBundle(t, "")); err != nil {
		t.Fatal(err)
	}
	params := shimtest.Marshal(t, &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns", SocketDir: proto.String("/run/elsewhere")})
	err := Start(t.Context(), manager, startArgs, bytes.NewReader(params), io.Discard)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "remember the socket directory") {
		t.Errorf("without a bundle: %v", err)
	}
}

// An address file that cannot be written fails the start: a shim that ends would leave its socket.
func TestStartThatCannotNoteTheAddress(t *testing.T) {
	bundle := chdirBundle(t, "")
	if err := os.Mkdir(filepath.Join(bundle, addressFile), 0o700); err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	err := Start(t.Context(), answers(nil), startArgs, strings.NewReader(""), &stdout)
	if !errors.Is(err, unix.EISDIR) || stdout.Len() > 0 {
		t.Errorf("got %v, printed %q", err, stdout.String())
	}
}

// An address that cannot be printed fails the start.
func TestStartThatCannotPrint(t *testing.T) {
	chdirBundle(t, "")
	read, write := io.Pipe()
	_ = read.Close()
	if err := Start(t.Context(), answers(nil), startArgs, strings.NewReader(""), write); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

// endless is a stdin of zeros that counts what is read.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	clear(p)
	return len(p), nil
}

// No more of stdin is read than containerd itself would.
func TestStartReadsABoundedStdin(t *testing.T) {
	stdin := &endless{}
	if _, err := startParams(startArgs, stdin); err != nil {
		t.Error(err)
	}
	if stdin.read != 10<<20 {
		t.Errorf("%d bytes are read", stdin.read)
	}
}

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
			}, false, `the shim of "pod": `,
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
	if served, err := isServed("unix://"+path, 100*time.Millisecond); err == nil {
		t.Errorf("got %t, nil", served)
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

// FuzzStartParams: for any stdin, the container is the one that the flags
// name.
func FuzzStartParams(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("garbage"))
	f.Add(shimtest.Marshal(f, shimtest.Any(f, &runcoptions.Options{BinaryName: "crun"})))
	f.Add(shimtest.Marshal(f, &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns"}))
	f.Add(shimtest.Marshal(f, &bootapi.BootstrapParams{InstanceID: "c2", Namespace: "ns", SocketDir: proto.String("/s")}))
	f.Fuzz(func(t *testing.T, stdin []byte) {
		params, err := startParams(startArgs, bytes.NewReader(stdin))
		if err != nil {
			t.Fatalf("stdin must not make a start fail before Create can say why: %v", err)
		}
		if params.InstanceID != "c1" || params.Namespace != "ns" {
			t.Errorf("got %v", params)
		}
	})
}
