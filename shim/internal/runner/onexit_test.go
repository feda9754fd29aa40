package runner

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

func never() bool { return false }

// TestEndIsTold: what the kernel knows of a real process, and what is reported where it
// does not know.
func TestEndIsTold(t *testing.T) {
	for script, want := range map[string][]string{
		"exit 0":          {"LIFECYCLE_RESULT=completed", "LIFECYCLE_EXIT_CODE=0"},
		"exit 3":          {"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=3"},
		"exit 255":        {"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=255"},
		"exit 137":        {"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=137"},
		"kill -TERM $$":   {"LIFECYCLE_RESULT=signal", "LIFECYCLE_SIGNAL=SIGTERM"},
		"kill -s KILL $$": {"LIFECYCLE_RESULT=signal", "LIFECYCLE_SIGNAL=SIGKILL"},
	} {
		r := &Runner{config: Config{Task: shimtest.NewTask(), ID: "c1"}, pidfd: ended(t, script)}
		if got := r.exit(t.Context(), false, never).environment(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

// ended returns the pidfd of a shell that has ended.
func ended(t *testing.T, script string) int {
	t.Helper()
	pidfd := -1
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	_ = cmd.Run() // as the script says
	kept, err := unix.Dup(pidfd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(kept) })
	return kept
}

func TestEndWithoutTheKernelsHelp(t *testing.T) {
	nothing, err := os.Open(os.DevNull) // knows of no process
	if err != nil {
		t.Fatal(err)
	}
	defer nothing.Close()
	for _, test := range []struct {
		status uint32
		oom    bool
		want   []string
	}{
		{0, true, []string{"LIFECYCLE_RESULT=completed", "LIFECYCLE_EXIT_CODE=0"}},
		{129, false, []string{"LIFECYCLE_RESULT=signal", "LIFECYCLE_EXIT_CODE=129", "LIFECYCLE_SIGNAL=SIGHUP"}},
		{192, false, []string{"LIFECYCLE_RESULT=signal", "LIFECYCLE_EXIT_CODE=192", "LIFECYCLE_SIGNAL=SIGRTMIN+30"}},
		{128, false, []string{"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=128"}},
		{143, true, []string{"LIFECYCLE_RESULT=signal", "LIFECYCLE_EXIT_CODE=143", "LIFECYCLE_SIGNAL=SIGTERM"}},
		{137, false, []string{"LIFECYCLE_RESULT=signal", "LIFECYCLE_EXIT_CODE=137", "LIFECYCLE_SIGNAL=SIGKILL"}},
		{137, true, []string{"LIFECYCLE_RESULT=oom-kill", "LIFECYCLE_EXIT_CODE=137", "LIFECYCLE_SIGNAL=SIGKILL"}},
		{193, false, []string{"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=193"}},
	} {
		inner := shimtest.NewTask()
		inner.Answer["State"] = func(_ context.Context, request any) (any, error) {
			if id := request.(*taskapi.StateRequest).ID; id != "c1" {
				t.Errorf("the state of %q is asked for", id)
			}
			return &taskapi.StateResponse{Status: task.Status_STOPPED, ExitStatus: test.status}, nil
		}
		r := &Runner{config: Config{Task: inner, ID: "c1"}, pidfd: int(nothing.Fd())}
		oom := func() bool { return test.oom }
		if got := r.exit(t.Context(), false, oom).environment(); !slices.Equal(got, test.want) {
			t.Errorf("%d: %q, want %q", test.status, got, test.want)
		}
		if got := r.exit(t.Context(), true, oom).environment(); !slices.Equal(got, []string{"LIFECYCLE_RESULT=start-failed"}) {
			t.Errorf("not started: %q", got)
		}
	}
}

// TestOnExitIsNamedAfterItsContainer: runc joins the session keyring of that name, which must be no other container's.
func TestOnExitIsNamedAfterItsContainer(t *testing.T) {
	names := map[string]bool{}
	for _, id := range []string{"c1", "c2"} {
		r := New(Config{
			ID: id, Bundle: "/b", Runtime: "true", NoPivotRoot: true, NoNewKeyring: true, CgroupsPath: id,
			Block: &lifecyclev1.Block{OnExit: execHandler("x")},
		})
		if err := r.keep(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		onExit := r.onExit
		r.kept.Close()
		names[onExit.ID] = true
		if !strings.Contains(onExit.ID, id) || !onExit.NoPivotRoot || !onExit.NoNewKeyring || onExit.Cgroup != id {
			t.Errorf("%+v", onExit)
		}
	}
	if len(names) != 2 {
		t.Errorf("names %v", names)
	}
}

// TestDeadShimsOnExitIsCleaned: what it has left running is removed by the containerd's delete action.
func TestDeadShimsOnExitIsCleaned(t *testing.T) {
	host := newFakeHost(t)
	before := openDescriptors(t)
	if err := RemoveLeftover(t.Context(), "/b", "true"); err != nil {
		t.Fatal(err)
	}
	if got := openDescriptors(t); got != before {
		t.Errorf("%d descriptors, %d before", got, before)
	}
	runtime, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	var after wire.OnExit
	if err := json.Unmarshal([]byte(host.file("clean")), &after); err != nil {
		t.Fatal(err)
	}
	if after.Dir != "/b/lifecycle/onExit" || after.Runtime != runtime || after.Shim != 0 {
		t.Errorf("got %+v", after)
	}
	if err := RemoveLeftover(t.Context(), "/b", "no-such-runtime"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("without a runtime: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := RemoveLeftover(ended, "/b", "true"); !errors.Is(err, context.Canceled) {
		t.Errorf("without time: %v", err)
	}
	host.refuse("still mounted")
	if err := RemoveLeftover(t.Context(), "/b", "true"); err == nil || !strings.Contains(err.Error(), "still mounted") {
		t.Errorf("what cannot be removed: %v", err)
	}
	if err := os.Remove(filepath.Join(host.dir, hookexec.HostBinary)); err != nil {
		t.Fatal(err)
	}
	if err := RemoveLeftover(t.Context(), "/b", "true"); err == nil || !strings.Contains(err.Error(), hookexec.HostBinary) {
		t.Errorf("without a host: %v", err)
	}
}

// fakeCounter counts OOM kills, as far as it is known.
type fakeCounter struct {
	kills         int
	known, around bool
}

func (c fakeCounter) OOMKills() (count int, known bool) { return c.kills, c.known }
func (c fakeCounter) OOMAround() bool                   { return c.around }

// TestOOMKillIsTold: the count of the container's cgroup decides. Where it cannot be asked any more, what containerd's watcher
// has seen counts, and then an OOM kill around the container, if no client has asked the shim for a SIGKILL.
func TestOOMKillIsTold(t *testing.T) {
	for _, test := range []struct {
		counter      fakeCounter
		seen, killed bool
		want         bool
	}{
		{fakeCounter{kills: 1, known: true}, false, true, true},
		{fakeCounter{kills: 0, known: true, around: true}, true, false, false},
		{fakeCounter{kills: 1}, false, false, false},
		{fakeCounter{}, true, true, true},
		{fakeCounter{around: true}, false, false, true},
		{fakeCounter{around: true}, false, true, false},
		{fakeCounter{}, false, false, false},
	} {
		is := func(value bool) func() bool { return func() bool { return value } }
		if got := oomKilled(test.counter, is(test.seen), is(test.killed)); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
	if got := signalled(unix.SIGKILL, -1, func() bool { return true }); got.result != resultOOMKill || got.exitCode != -1 || got.signal != unix.SIGKILL {
		t.Errorf("SIGKILL for lack of memory: %+v", got)
	}
	if got := signalled(unix.SIGTERM, -1, func() bool { return true }); got.result != resultSignal {
		t.Errorf("SIGTERM, and an OOM kill of another process: %+v", got)
	}
}

// TestWhatAnOnExitIsGiven: all that the runtime needs to make it in what is left of the container.
func TestWhatAnOnExitIsGiven(t *testing.T) {
	r := New(Config{
		ID: "c1", Bundle: "/b", Runtime: "true", SystemdCgroup: true, CgroupsPath: "/cg",
		Block: &lifecyclev1.Block{OnExit: execHandler("x")},
	})
	if err := r.keep(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	defer r.kept.Close()
	onExit := r.onExit
	runtime, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	if onExit.Shim != os.Getpid() || onExit.Bundle != "/b" || onExit.Dir != "/b/lifecycle/onExit" || onExit.Runtime != runtime ||
		!onExit.SystemdCgroup || onExit.NoPivotRoot || onExit.NoNewKeyring || onExit.Cgroup != "/cg" || onExit.Namespaces["mount"] == "" {
		t.Errorf("got %+v", onExit)
	}
	r.config.Block.OnExit = sleepHandler()
	r.onExit = nil
	if err := r.keep(os.Getpid()); err != nil || r.onExit != nil || len(r.kept.Paths()) != 1 {
		t.Errorf("no exec: %v, %v", r.onExit, err)
	}
	r.kept.Close()
	if err := r.keep(goneProcess(t)); err == nil {
		t.Error("a process that has gone is kept")
	}
}

// TestUnknownEndIsLogged: what onExit gets is a guess then.
func TestUnknownEndIsLogged(t *testing.T) {
	nothing, err := os.Open(os.DevNull) // knows of no process
	if err != nil {
		t.Fatal(err)
	}
	defer nothing.Close()
	for _, failure := range []error{nil, errors.New("no answer")} {
		logger, lines := shimtest.NewLog()
		inner := shimtest.NewTask()
		inner.Answer["State"] = func(context.Context, any) (any, error) { return nil, failure }
		r := &Runner{config: Config{Task: inner, ID: "c1"}, pidfd: int(nothing.Fd())}
		r.exit(log.WithLogger(t.Context(), logger), false, never)
		if got := len(lines.All()) == 1; got != (failure != nil) {
			t.Errorf("%v: logged %q", failure, lines.All())
		}
	}
}

// TestLeftoverOfAnOnExitIsLogged, and changes nothing of its result.
func TestLeftoverOfAnOnExitIsLogged(t *testing.T) {
	host := newFakeHost(t)
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{OnExit: execHandler("x")})
	r.mustPrepare(t)
	host.refuse("still mounted")
	lines := &shimtest.Lines{}
	old := log.L.Logger.ReplaceHooks(logrus.LevelHooks{logrus.ErrorLevel: []logrus.Hook{lines}})
	defer log.L.Logger.ReplaceHooks(old)
	result := r.Run(t.Context(), Run{Kind: lifecycle.OnExit, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
	if result.Err == nil || result.Err.Error() != "cannot start: start 1" {
		t.Errorf("got %v", result.Err)
	}
	if len(lines.All()) != 1 || !strings.Contains(lines.All()[0], "still mounted") {
		t.Errorf("logged %q", lines.All())
	}
}
