package runner

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/containerlog"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestNewRunner: the runtime is the runc service's own, and there is no process to signal yet.
func TestNewRunner(t *testing.T) {
	if r := New(Config{}); r.config.Runtime != "runc" || r.pidfd != -1 {
		t.Errorf("got the runtime %q and the pidfd %d", r.config.Runtime, r.pidfd)
	}
	if r := New(Config{Runtime: "crun"}); r.config.Runtime != "crun" {
		t.Errorf("got the runtime %q", r.config.Runtime)
	}
}

// TestStreamIsTheRequests: the stdout and the terminal of the Create, and the init if there is one.
func TestStreamIsTheRequests(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{PreStop: sleepHandler()})
		r.config.Stdout, r.config.Terminal = "binary:///bin/logger", terminal
		r.Restored()
		if want := containerlog.Of(r.config.Stdout, terminal, 0); r.stream != want {
			t.Errorf("terminal %t, restored: got %+v, want %+v", terminal, r.stream, want)
		}
		r.config.Stdout = filepath.Join(t.TempDir(), "stdout")
		if err := os.WriteFile(r.config.Stdout, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r.mustPrepare(t)
		if want := containerlog.Of(r.config.Stdout, terminal, os.Getpid()); r.stream != want {
			t.Errorf("terminal %t: got %+v, want %+v", terminal, r.stream, want)
		}
	}
}

// TestBackgroundOutputIsHeldUntilTheEnd: a process that a handler has left gets no SIGPIPE before.
func TestBackgroundOutputIsHeldUntilTheEnd(t *testing.T) {
	host := newFakeHost(t)
	if err := os.WriteFile(filepath.Join(host.dir, "leave"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{PreStop: execHandler("x")})
	before := openDescriptors(t)
	r.mustPrepare(t)
	prepared := openDescriptors(t)
	r.Run(t.Context(), Run{Kind: lifecycle.PreStop, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
	left, err := strconv.Atoi(strings.TrimSpace(host.file("left")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(left, unix.SIGKILL) }()
	if openDescriptors(t) <= prepared {
		t.Error("the output of a process that runs is closed")
	}
	r.Close()
	await(t, "it is closed with the container", func() bool { return openDescriptors(t) <= before })
}

// TestSIGKILLIsNoOOMKillIfAClientHasAskedForIt: onExit is told what is known of the kill.
func TestSIGKILLIsNoOOMKillIfAClientHasAskedForIt(t *testing.T) {
	host := newFakeHost(t)
	r, inner := newTestRunner(t, host, &lifecyclev1.Block{OnExit: execHandler("x")})
	r.mustPrepare(t)
	inner.Answer["State"] = func(context.Context, any) (any, error) {
		return &taskapi.StateResponse{Status: task.Status_STOPPED, ExitStatus: 137}, nil
	}
	killed := func() bool { return true }
	want := "LIFECYCLE_RESULT=" + resultSignal
	if oomKilled(r.kept, never, killed) { // this test's own cgroup has had one
		want = "LIFECYCLE_RESULT=" + resultOOMKill
	}
	r.Run(t.Context(), Run{Kind: lifecycle.OnExit, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: killed})
	if got := host.request(1).Env; !slices.Contains(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

// TestLeftoverIsFoundByItsDirectory.
func TestLeftoverIsFoundByItsDirectory(t *testing.T) {
	bundle := t.TempDir()
	if HasLeftover(bundle) {
		t.Error("an empty bundle has one")
	}
	if err := os.MkdirAll(filepath.Join(bundle, "lifecycle", "onExit"), 0o700); err != nil {
		t.Fatal(err)
	}
	if !HasLeftover(bundle) {
		t.Error("it is not found")
	}
}
