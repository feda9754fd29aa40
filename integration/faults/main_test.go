package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// limit bounds every wait. It is long, because it is only reached by a failure.
const limit = 40 * time.Second

const shimBinary, hostBinary = "containerd-shim-lifecycle-v2", "lifecycle-hookexec"

// base is where all files of this run are. Its bin is the daemons' only directory with a runtime: a handler host is
// found beside its shim, or not at all.
var base string

func TestMain(m *testing.M) {
	flag.Parse()
	harness.Parallel(8)
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "containers are made here: run the tests as root")
		return 1
	}
	var err error
	if base, err = makeBase(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := errors.Join(closeDaemons(), os.RemoveAll(base)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// basePattern is of this package's directories. One whose run has died is removed by the next run.
const basePattern = "/run/lcf-*"

func makeBase() (string, error) {
	for _, dir := range harness.Orphans(basePattern) {
		_ = errors.Join(harness.KillNaming(dir), os.RemoveAll(dir))
	}
	dir, err := os.MkdirTemp(filepath.Split(basePattern))
	if err != nil {
		return "", err
	}
	err = errors.Join(harness.Own(dir), os.Chmod(dir, 0o711), os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	for from, to := range map[string]string{"runc": "bin/runc", "race/" + shimBinary: shimBinary, hostBinary: hostBinary} {
		data, readErr := os.ReadFile(filepath.Join(bin(), from))
		if readErr != nil {
			return "", fmt.Errorf("%w: run `make build servers` first", readErr)
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, to), data, 0o755))
	}
	return dir, err
}

func bin() string {
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		panic(err)
	}
	return dir
}

// cgroupParent of all cells; each has its own below it.
var cgroupParent = fmt.Sprintf("/lcf-%d", os.Getpid())

// world is a daemon, and what was there before anything was done under it.
type world struct {
	*harness.Daemon
	client *harness.Client
	events *harness.Events
	watch  harness.Watch
	before harness.Snapshot
}

var shared = struct {
	sync.Mutex
	worlds map[string]*world
}{worlds: map[string]*world{}}

// sharedWorld is the daemon of the cells whose fault does not touch it.
func sharedWorld(runtime string) (*world, error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.worlds[runtime] == nil {
		w, err := newWorld(runtime)
		if err != nil {
			return nil, err
		}
		shared.worlds[runtime] = w
	}
	return shared.worlds[runtime], nil
}

func newWorld(runtime string) (*world, error) {
	servers := harness.Servers(bin())
	at := slices.IndexFunc(servers, func(s harness.Server) bool { return s.Name == "2.4" })
	if at < 0 {
		return nil, errors.New("containerd 2.4 is not there: run `make servers`")
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	daemon, err := harness.StartDaemon(ctx, harness.DaemonConfig{
		Server: servers[at], BinDir: filepath.Join(base, "bin"), HideUnified: runtime == "crun",
		Env: []string{"GORACE=log_path=" + filepath.Join(base, "race")},
	})
	if err != nil {
		return nil, err
	}
	w := &world{Daemon: daemon, watch: harness.Watch{Daemons: []*harness.Daemon{daemon}}}
	if w.before, err = w.watch.TakeSnapshot(); err == nil {
		w.client, err = daemon.Client("faults")
	}
	if err == nil {
		w.events, err = w.client.Events(context.Background())
	}
	if err != nil {
		return nil, errors.Join(err, daemon.Close())
	}
	return w, nil
}

// close ends the daemon, and is an error where something has been left behind.
func (w *world) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	leaks, err := w.watch.Leaks(ctx, w.before)
	errs := []error{err}
	for _, leak := range leaks {
		errs = append(errs, fmt.Errorf("left behind: %s", leak))
	}
	w.events.Close()
	return errors.Join(append(errs, w.Close())...)
}

func closeDaemons() error {
	var errs []error
	for _, w := range shared.worlds {
		errs = append(errs, w.close())
	}
	harness.RemoveCgroupTree(cgroupParent)
	races, _ := filepath.Glob(filepath.Join(base, "race.*"))
	for _, file := range races {
		report, err := os.ReadFile(file)
		errs = append(errs, err, fmt.Errorf("a data race in the shim:\n%s", report))
	}
	return errors.Join(errs...)
}

// namespaceOf a test is its own: everything of a cell can be recognised by it.
func namespaceOf(t *testing.T) string {
	_, name, _ := strings.Cut(t.Name(), "/")
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-", ",", "", "#", "-", "'", "").Replace(name))
}
