package runner

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestFailedPreparationIsReported: a container whose handlers cannot run is not created (docs/spec.md#bad-input).
func TestFailedPreparationIsReported(t *testing.T) {
	host := newFakeHost(t)
	host.refuse("no such profile")
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{PostStart: execHandler("x")})
	r.Begin(t.Context())
	if err := r.Prepare(os.Getpid(), nil); err == nil || !strings.Contains(err.Error(), "no such profile") {
		t.Errorf("got %v", err)
	}
	result := r.Run(t.Context(), Run{Kind: lifecycle.PostStart, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
	if result.Outcome != lifecycle.Failed || !strings.Contains(result.Err.Error(), "could not be prepared") || result.ExitCode != -1 {
		t.Errorf("a handler of it: %+v", result)
	}
}

// TestInitThatHasGoneCannotBePrepared: another process may have its number.
func TestInitThatHasGoneCannotBePrepared(t *testing.T) {
	r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{PreStop: execHandler("x")})
	before := openDescriptors(t)
	if err := r.Started(t.Context(), goneProcess(t), nil); err == nil || !strings.HasPrefix(err.Error(), "the container's init: ") {
		t.Errorf("got %v", err)
	}
	if got := openDescriptors(t); got != before || r.init != nil {
		t.Errorf("the preparation goes on: %d descriptors, %d before", got, before)
	}
}

func goneProcess(t *testing.T) int {
	t.Helper()
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	return gone.Process.Pid
}

// TestInitNeedsAPidfd: without it neither a signal nor a connection is sure to reach the container.
func TestInitNeedsAPidfd(t *testing.T) {
	r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{PreStop: sleepHandler()})
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil || len(threads) < 2 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	thread := 0 // one that has a stat as a process has, and no pidfd
	for _, entry := range threads {
		if number, err := strconv.Atoi(entry.Name()); err == nil && number != os.Getpid() {
			thread = number
		}
	}
	if err := r.prepare(thread, nil); err == nil || !strings.Contains(err.Error(), "pidfd") {
		t.Errorf("got %v", err)
	}
}

// TestOnExitNeedsItsRuntime: without it the container is refused when it is created, not when it has ended.
func TestOnExitNeedsItsRuntime(t *testing.T) {
	r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{OnExit: execHandler("x")})
	r.config.Runtime = "no-such-runtime"
	r.Begin(t.Context())
	defer r.Undo()
	if err := r.prepare(os.Getpid(), nil); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	r.config.Block.OnExit = sleepHandler() // needs none
	if err := r.keep(os.Getpid()); err != nil {
		t.Error(err)
	}
}

// TestPreparationIsOnlyForExec, and is begun once.
func TestPreparationIsOnlyForExec(t *testing.T) {
	host := newFakeHost(t)
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{PreStop: sleepHandler()})
	r.mustPrepare(t)
	if r.preparation != nil || host.file("prepare") != "" {
		t.Error("a sleep is prepared")
	}
	if r.background == nil {
		t.Error("the output of processes in the background is not taken over")
	}
	r, _ = newTestRunner(t, host, &lifecyclev1.Block{PreStop: execHandler("x")})
	r.config.NoNewKeyring = true
	r.mustPrepare(t)
	begun := r.preparation
	if r.Begin(t.Context()); r.preparation != begun {
		t.Error("it is begun twice")
	}
	decoder := json.NewDecoder(strings.NewReader(host.file("prepare")))
	var request wire.PrepareRequest
	var init wire.Init
	if err := errors.Join(decoder.Decode(&request), decoder.Decode(&init)); err != nil {
		t.Fatal(err)
	}
	want := wire.PrepareRequest{Root: r.root(), ID: "c1", Bundle: r.config.Bundle, NoNewKeyring: true}
	if request != want || init.Pid != os.Getpid() {
		t.Errorf("prepared %+v for %+v, want %+v", request, init, want)
	}
}

// TestRestoredContainerIsPreparedAtItsStart, and one that was created is not prepared twice.
func TestRestoredContainerIsPreparedAtItsStart(t *testing.T) {
	host := newFakeHost(t)
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{PreStop: execHandler("x")})
	if err := r.Started(t.Context(), os.Getpid(), nil); err != nil || r.init == nil {
		t.Errorf("got %v", err)
	}
	host.refuse("it is asked twice")
	if err := r.Started(t.Context(), os.Getpid(), nil); err != nil {
		t.Error(err)
	}
	r, _ = newTestRunner(t, host, &lifecyclev1.Block{PreStop: execHandler("x")})
	if err := r.Started(t.Context(), os.Getpid(), nil); err == nil || !strings.Contains(err.Error(), "it is asked twice") {
		t.Errorf("a preparation that fails: %v", err)
	}
}

// TestUndoEndsAPreparation whose container was not created.
func TestUndoEndsAPreparation(t *testing.T) {
	r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{PreStop: execHandler("x")})
	r.Undo() // nothing was begun
	before := openDescriptors(t)
	r.Begin(t.Context())
	r.Undo()
	if err := r.preparation.Finish(wire.Init{}); err == nil {
		t.Error("it goes on")
	}
	if got := openDescriptors(t); got != before {
		t.Errorf("%d descriptors, %d before", got, before)
	}
}

// TestClosedRunnerHoldsNothing (docs/spec.md#no-leak): neither the init's pidfd nor what was kept for onExit.
func TestClosedRunnerHoldsNothing(t *testing.T) {
	host := newFakeHost(t)
	for name, block := range map[string]*lifecyclev1.Block{
		"preStop": {PreStop: execHandler("x")}, "onExit": {OnExit: execHandler("x")},
	} {
		r, _ := newTestRunner(t, host, block)
		before := openDescriptors(t)
		r.mustPrepare(t)
		if got := openDescriptors(t); got == before {
			t.Errorf("%s: nothing is held open", name)
		}
		r.Close()
		if got := openDescriptors(t); got != before {
			t.Errorf("%s: %d descriptors, %d before", name, got, before)
		}
		other, err := unix.PidfdOpen(os.Getpid(), 0) // has the number that was free
		if err != nil {
			t.Fatal(err)
		}
		r.Close() // once more closes no other file
		if err := unix.Close(other); err != nil {
			t.Errorf("%s: another's descriptor was closed: %v", name, err)
		}
	}
}

// TestParkedHandlerIsTheOneThatRuns: the process that waits is used, once.
func TestParkedHandlerIsTheOneThatRuns(t *testing.T) {
	host := newFakeHost(t)
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{PostStart: execHandler("post"), PreStop: execHandler("stop")})
	r.mustPrepare(t)
	r.Park(t.Context(), nil)
	await(t, "the handler is parked", func() bool { return host.started() == 1 })
	run := func(kind lifecycle.Kind) string {
		return r.Run(t.Context(), Run{Kind: kind, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never}).Err.Error()
	}
	if got := run(lifecycle.PreStop); got != "cannot start: start 2" {
		t.Errorf("another handler: %s", got)
	}
	if got := run(lifecycle.PostStart); got != "cannot start: start 1" {
		t.Errorf("the parked one: %s", got)
	}
	if got := run(lifecycle.PostStart); got != "cannot start: start 3" {
		t.Errorf("once more: %s", got)
	}
	if got := host.request(1).Args; len(got) != 1 || got[0] != "post" {
		t.Errorf("%q was parked", got)
	}
}

// TestUnparkEndsWhatWaits (docs/spec.md#no-leak).
func TestUnparkEndsWhatWaits(t *testing.T) {
	host := newFakeHost(t)
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{PostStart: execHandler("x")})
	before := openDescriptors(t)
	r.Unpark() // nothing is parked
	r.Park(t.Context(), nil)
	await(t, "the handler is parked", func() bool { return host.started() == 1 })
	r.Unpark()
	await(t, "its descriptors are closed", func() bool { return openDescriptors(t) == before })
	if r.parked.Load() != nil {
		t.Error("it is kept for later")
	}
}

// TestOnlyTheStartsFirstExecIsParked.
func TestOnlyTheStartsFirstExecIsParked(t *testing.T) {
	host := newFakeHost(t)
	logged := execHandler("x")
	logged.Output = oci.OutputLog
	for name, block := range map[string]*lifecyclev1.Block{
		"no handler of a start":       {PreStop: execHandler("x")},
		"a sleep":                     {PostStart: sleepHandler()},
		"preStart is first":           {PreStart: sleepHandler(), PostStart: execHandler("x")},
		"its output goes to the log":  {PostStart: logged},
		"preStart's goes to the logs": {PreStart: logged, PostStart: execHandler("x")},
	} {
		r, _ := newTestRunner(t, host, block)
		r.Park(t.Context(), nil)
		if r.parked.Load() != nil {
			t.Errorf("%s: a handler is parked", name)
			r.Unpark()
		}
	}
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{PreStart: execHandler("first"), PostStart: sleepHandler()})
	r.Park(t.Context(), nil)
	if r.parked.Load() == nil {
		t.Fatal("preStart is not parked")
	}
	defer r.Unpark()
	await(t, "it is there", func() bool { return host.started() == 1 })
	request := host.request(1)
	if request.Args[0] != "first" || request.Env[0] != "LIFECYCLE_HANDLER=preStart" {
		t.Errorf("parked %+v", request)
	}
}

// TestParkingThatFailsCostsNothing: the handler is started when it is due.
func TestParkingThatFailsCostsNothing(t *testing.T) {
	host := newFakeHost(t)
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{PostStart: execHandler("x")})
	if err := host.Close(); err != nil { // so it cannot be executed
		t.Fatal(err)
	}
	r.Park(t.Context(), nil)
	if r.parked.Load() != nil {
		t.Error("what has failed is kept for later")
	}
}
