package shim

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	containerdversion "github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/launch"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// mainArgs in the environment makes TestMainInAChild the shim's program.
const mainArgs = "SHIM_TEST_MAIN_ARGS"

// TestMainInAChild runs Main as a process of its own does, and reports what it leaves behind.
func TestMainInAChild(t *testing.T) {
	if os.Getenv(mainArgs) == "" {
		return // TestMainOfTheProgram runs it
	}
	os.Args = strings.Fields(os.Getenv(mainArgs))
	status := Main(t.Context(), os.Args)
	registered := registry.Graph(func(*plugin.Registration) bool { return false })
	fmt.Fprintf(os.Stdout, "\nprocessors %d, plugins %d\n", runtime.GOMAXPROCS(0), len(registered))
	log.L.Debug("details")
	log.L.Info(strings.Repeat("x", 20_000))
	os.Exit(status)
}

// ended is a child that has ended.
type ended struct {
	status                 int
	stdout, stderr, logged string
	socketStays            bool
}

// runMain runs the program in a new bundle. It inherits a socket as the shim does. Without a log it has no FIFO for it.
func runMain(t *testing.T, withLog bool, args string) ended {
	t.Helper()
	bundle, socket := t.TempDir(), filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
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
	pipe := -1
	if withLog {
		if err := unix.Mkfifo(filepath.Join(bundle, "log"), 0o700); err != nil {
			t.Fatal(err)
		}
		if pipe, err = unix.Open(filepath.Join(bundle, "log"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pipe)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(os.Args[0], "-test.run=^TestMainInAChild$", "-test.v")
	cmd.Env = append(os.Environ(), mainArgs+"="+args, "GOMAXPROCS=5")
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = bundle, &stdout, &stderr, []*os.File{inherited}
	err = cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	logged := make([]byte, 1<<16)
	n, _ := unix.Read(pipe, logged)
	_, err = os.Lstat(socket)
	return ended{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String(), string(logged[:max(n, 0)]), !errors.Is(err, fs.ErrNotExist)}
}

// TestMainOfTheProgram: what the binary does by its arguments, as far as it needs no containerd.
func TestMainOfTheProgram(t *testing.T) {
	processors := fmt.Sprintf("\nprocessors %d, plugins 1\n", min(2, runtime.NumCPU()))
	t.Run("settings", func(t *testing.T) {
		got := runMain(t, false, "shim settings")
		if strings.Contains(got.stdout, processors) || got.status == 0 != strings.Contains(got.stdout, `"DefaultGracePeriod":`) || !got.socketStays {
			t.Errorf("got %+v", got) // the machine's own settings may be wrong
		}
	})
	t.Run("a shim whose bundle is gone", func(t *testing.T) {
		got := runMain(t, false, "shim -namespace ns -id c1")
		if got.status != 1 || got.socketStays || !strings.HasPrefix(got.stderr, launch.RuntimeName+": open log: ") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("a shim that ends", func(t *testing.T) {
		got := runMain(t, true, "shim -namespace ns -id c1 -v")
		if got.status != 0 || got.socketStays || !strings.Contains(got.stdout, processors) {
			t.Errorf("got %+v", got)
		}
		if strings.Contains(got.logged, "details") || len(got.logged) > 8<<10 || !strings.Contains(got.logged, "xxx") {
			t.Errorf("%d bytes are logged: %.500s", len(got.logged), got.logged)
		}
	})
	t.Run("for debugging", func(t *testing.T) {
		if got := runMain(t, true, "shim -namespace ns -id c1 -debug -v"); !strings.Contains(got.logged, "details") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("its version", func(t *testing.T) {
		got := runMain(t, false, "shim -v")
		if got.status != 0 || !got.socketStays || !strings.Contains(got.stdout, "Version:  "+version.Version+"\n") || !strings.Contains(got.stdout, "Revision: containerd ") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("on one processor", func(t *testing.T) {
		runtime.LockOSThread() // its children have its processors
		defer runtime.UnlockOSThread()
		var all, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &all); err != nil {
			t.Fatal(err)
		}
		for cpu := 0; one.Count() == 0; cpu++ {
			if all.IsSet(cpu) {
				one.Set(cpu)
			}
		}
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.SchedSetaffinity(0, &all) }()
		if got := runMain(t, false, "shim -v"); !strings.Contains(got.stdout, "\nprocessors 1, plugins 1\n") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("a start that containerd does not ask for", func(t *testing.T) {
		got := runMain(t, false, "shim -namespace ns start")
		if got.status != 1 || !got.socketStays || !strings.HasPrefix(got.stderr, launch.RuntimeName+": start needs -namespace and -id") {
			t.Errorf("got %+v", got)
		}
	})
}

// TestVersionOfBoth: this shim's, and containerd's without what says that it was built elsewhere.
func TestVersionOfBoth(t *testing.T) {
	own, revision := containerdversion.Version, containerdversion.Revision
	t.Cleanup(func() { containerdversion.Version, containerdversion.Revision = own, revision })
	containerdversion.Version = "2.4.2+unknown"
	setVersion()
	if containerdversion.Version != version.Version || containerdversion.Revision != "containerd 2.4.2" {
		t.Errorf("got %s, %s", containerdversion.Version, containerdversion.Revision)
	}
}

// TestTaskServiceIsRegistered in the place of the runc shim's own. If it cannot be made, the shim leaves no socket.
func TestTaskServiceIsRegistered(t *testing.T) {
	t.Cleanup(registry.Reset)
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := launch.At(path)
	if err != nil {
		t.Fatal(err)
	}
	register(launch.Sockets{socket})
	none := func(t plugin.Type, id string) *plugin.Registration {
		return &plugin.Registration{Type: t, ID: id, InitFn: func(*plugin.InitContext) (any, error) { return nil, errKilled }}
	}
	registry.Register(none(plugins.EventPlugin, "publisher"))
	registry.Register(none(plugins.InternalPlugin, "shutdown"))
	all := registry.Graph(func(*plugin.Registration) bool { return false })
	last := all[len(all)-1] // after what it requires
	if len(all) != 3 || last.URI() != "io.containerd.ttrpc.v1.task" {
		t.Fatalf("registered %+v", all)
	}
	result := last.Init(plugin.NewContext(t.Context(), plugin.NewPluginSet(), nil))
	if _, err := result.Instance(); err == nil {
		t.Error("a service without an event publisher")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket: %v", err)
	}
}

// initContext has the plugins that a shim's runner has, but for those that are missing.
func initContext(t *testing.T, publisher *shimtest.Publisher, missing string) (*plugin.InitContext, shutdown.Service) {
	t.Helper()
	ctx, sd := shutdown.WithShutdown(t.Context())
	set := plugin.NewPluginSet()
	for id, instance := range map[string]any{"publisher": publisher, "shutdown": sd} {
		r := plugin.Registration{
			Type: map[string]plugin.Type{"publisher": plugins.EventPlugin, "shutdown": plugins.InternalPlugin}[id], ID: id,
			InitFn: func(*plugin.InitContext) (any, error) { return instance, nil },
		}
		if id == missing {
			continue
		}
		if err := set.Add(r.Init(plugin.NewContext(ctx, set, nil))); err != nil {
			t.Fatal(err)
		}
	}
	return plugin.NewContext(ctx, set, nil), sd
}

// TestServiceOfTheProgram expects its first Create, and cleans up when the shim ends.
func TestServiceOfTheProgram(t *testing.T) {
	bundle := t.TempDir()
	t.Chdir(bundle)
	if err := errors.Join(os.WriteFile("address", nil, 0o600), os.WriteFile("config.json", []byte("{}"), 0o600)); err != nil {
		t.Fatal(err)
	}
	tests := flag.CommandLine
	flag.CommandLine = flag.NewFlagSet("shim", flag.ContinueOnError)
	t.Cleanup(func() { flag.CommandLine = tests })
	flag.String("id", "c1", "")
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := launch.At(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Reset)
	register(launch.Sockets{socket})
	ic, sd := initContext(t, &shimtest.Publisher{}, "")
	registered := registry.Graph(func(*plugin.Registration) bool { return false })
	made, err := registered[0].InitFn(ic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of a shim that serves: %v", err)
	}
	s := made.(*service)
	if !s.ending.busy() {
		t.Error("it expects no Create")
	}
	sd.Shutdown()
	<-sd.Done()
	if _, err := os.Lstat("address"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its end does not clean up: %v", err)
	}
}

// TestServiceThatCannotBeMade says what is missing.
func TestServiceThatCannotBeMade(t *testing.T) {
	for _, missing := range []string{"publisher", "shutdown"} {
		ic, _ := initContext(t, &shimtest.Publisher{}, missing)
		if made, err := initService(ic, nil); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without %s: got %v, %v", missing, made, err)
		}
	}
	bundle := t.TempDir()
	t.Chdir(bundle)
	if err := os.Remove(bundle); err != nil {
		t.Fatal(err)
	}
	ic, _ := initContext(t, &shimtest.Publisher{}, "")
	if made, err := initService(ic, nil); err == nil || !strings.HasPrefix(err.Error(), "find the bundle: ") {
		t.Errorf("without a bundle: got %v, %v", made, err)
	}
}
