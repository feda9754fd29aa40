package shim

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/metrics"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// logged collects the entries of a log.
type logged struct {
	mu      sync.Mutex
	entries []*logrus.Entry
}

func (l *logged) Levels() []logrus.Level { return logrus.AllLevels }

func (l *logged) Fire(entry *logrus.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry)
	return nil
}

// of one message, in their order.
func (l *logged) of(message string) []*logrus.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []*logrus.Entry
	for _, entry := range l.entries {
		if entry.Message == message {
			found = append(found, entry)
		}
	}
	return found
}

// logTo makes a context whose log, of that level, is collected.
func logTo(ctx context.Context, level logrus.Level) (context.Context, *logged) {
	collected := &logged{}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	logger.SetLevel(level)
	logger.AddHook(collected)
	return log.WithLogger(namespaces.WithNamespace(ctx, "ns1"), logrus.NewEntry(logger)), collected
}

// loggedWorld is newWorld with its log collected.
func loggedWorld(t *testing.T, level logrus.Level, config lifecycle.Config, handlers *fakeHandlers) (*world, *logged) {
	t.Helper()
	w := both(newWorld(t, config, handlers))
	ctx, collected := logTo(t.Context(), level)
	w.c.ctx = newTestContainer(ctx, "c1", config, handlers).ctx
	return w, collected
}

func names(fields log.Fields) string {
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestLogOfAHandler: one line at its start and one at its end, with these fields
// and no others; its output is for debugging, and its environment is never logged.
func TestLogOfAHandler(t *testing.T) {
	for level, outputs := range map[logrus.Level]int{logrus.InfoLevel: 0, logrus.DebugLevel: 2} {
		t.Run(level.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bad := failedBad
				bad.Output = "a secret"
				w, collected := loggedWorld(t, level, lifecycle.Config{
					PostStart: &lifecycle.Handler{IgnoreFailure: true}, PreStop: &lifecycle.Handler{},
				}, &fakeHandlers{postStart: takes(3*second, bad), preStop: takes(second, succeeded)})
				start := w.exitOnSignal().serve().start(0)
				<-start.done
				w.kill(unix.SIGTERM)
				pass(2 * second)
				started, ended := collected.of("handler started"), collected.of("handler ended")
				if len(started) != 2 || len(ended) != 2 {
					t.Fatalf("%d starts and %d ends", len(started), len(ended))
				}
				for i, kind := range []lifecycle.Kind{lifecycle.PostStart, lifecycle.PreStop} {
					if got := names(started[i].Data); got != "handler id namespace" || started[i].Level != logrus.InfoLevel {
						t.Errorf("the line at the start has %s, level %s", got, started[i].Level)
					}
					if started[i].Data["handler"] != kind || started[i].Data["id"] != "c1" || started[i].Data["namespace"] != "ns1" {
						t.Errorf("the line at the start has %v", started[i].Data)
					}
				}
				if got := names(ended[0].Data); got != "attempts error handler id namespace result took" || ended[0].Level != logrus.InfoLevel {
					t.Errorf("the line at the end has %s, level %s", got, ended[0].Level)
				}
				if data := ended[0].Data; data["result"] != lifecycle.Failed || data["took"] != 3*time.Second || data["attempts"] != 1 || !errors.Is(data["error"].(error), errExit3) {
					t.Errorf("the line at the end has %v", data)
				}
				if got := names(ended[1].Data); got != "attempts handler id namespace result took" {
					t.Errorf("the line at the end of a success has %s", got)
				}
				if got := len(collected.of("handler output")); got != outputs {
					t.Errorf("%d lines with outputs, want %d", got, outputs)
				}
				for _, entry := range collected.entries {
					line, err := entry.String()
					if err != nil || entry.Level < logrus.DebugLevel && strings.Contains(line, "secret") {
						t.Errorf("%q, %v", line, err)
					}
					if strings.Contains(line, "LIFECYCLE_") {
						t.Errorf("an environment: %q", line)
					}
				}
			})
		})
	}
}

// TestLinesThatAreLostAreLogged, and in the status; how many, and never which.
func TestLinesThatAreLostAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		result := hookexec.Result{Outcome: lifecycle.Succeeded, Output: "a secret", LostLines: 7, LogErr: errors.New("no reader")}
		w, collected := loggedWorld(t, logrus.InfoLevel, postStart(0), &fakeHandlers{postStart: takes(second, result)})
		<-w.serve().start(0).done
		lines := collected.of("cannot log all output: lines of a handler's output are missing in the container's log")
		if len(lines) != 1 || names(lines[0].Data) != "error handler id lines namespace" || lines[0].Data["lines"] != int64(7) || lines[0].Level != logrus.WarnLevel {
			t.Errorf("got %v", lines)
		}
		if run := w.told(t).Runs[0]; run.LostLines != 7 || run.LogError != "no reader" {
			t.Errorf("the status has %v", run)
		}
	})
}

// TestEveryEventIsExplained: a line for each event that the machine takes, whatever
// follows from it, with where it stood, where it stands, and why.
func TestEveryEventIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := bothHandlers()
		config.GracePeriod = 20 * second
		w, collected := loggedWorld(t, logrus.DebugLevel, config, &fakeHandlers{postStart: takes(3*second, succeeded), preStop: hangs})
		<-w.serve().start(30 * second).done
		w.kill(unix.SIGHUP)
		w.kill(unix.SIGTERM)
		w.kill(unix.SIGTERM)
		pass(time.Minute) // preStop's share is over; then SIGKILL, which the fake does not carry out
		w.exit()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		<-w.loopEnded
		var got []string
		for _, entry := range collected.of("lifecycle") {
			if entry.Level != logrus.DebugLevel || entry.Data["why"] == "" || entry.Data["id"] != "c1" || entry.Data["namespace"] != "ns1" {
				t.Errorf("level %s, %v", entry.Level, entry.Data)
			}
			got = append(got, strings.Join([]string{
				entry.Data["from"].(string), entry.Data["event"].(string), entry.Data["state"].(string), entry.Data["effects"].(string),
			}, ": "))
		}
		want := []string{
			"Created: StartRequested: Starting: CallStart",
			"Starting: StartReturned: PostStart: RunHandler postStart",
			"PostStart: HandlerEnded: Running: ReleaseStart, Answer",
			"Running: KillRequested: Running: Forward",
			"Running: KillRequested: PreStop: Answer, RunHandler preStop",
			"PreStop: KillRequested: PreStop: Answer",
			"PreStop: DeadlineReached: Stopping: AbortHandler: stop deadline, SendSignal 15",
			"Stopping: HandlerEnded: Stopping: ",
			"Stopping: DeadlineReached: Stopping: SendSignal 9",
			"Stopping: ContainerExited: Exited: ",
		}
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if last := got[len(got)-1]; last != "Exited: DeleteReturned: Deleted: " {
			t.Errorf("the last line is %q", last)
		}
		run := collected.of("lifecycle")[4].Data
		if run["signal"] != uint32(15) || run["owner"] != "terminationGracePeriodSeconds" || run["limit"] == nil || run["limit"] != run["deadline"] {
			t.Errorf("the limit of preStop is not told: %v", run)
		}
		if end := collected.of("lifecycle")[2].Data; end["result"] != "Succeeded" {
			t.Errorf("the result of postStart is not told: %v", end)
		}
	})
}

// TestExplainingCostsNothing without debugging.
func TestExplainingCostsNothing(t *testing.T) {
	ctx, collected := logTo(t.Context(), logrus.InfoLevel)
	c := newTestContainer(ctx, "c1", preStop(0), &fakeHandlers{})
	event := lifecycle.Event{Kind: lifecycle.KillRequested, Request: 1, Signal: lifecycle.Signal{Number: 1}}
	effects := c.machine.Step(time.Now(), event)
	if got := testing.AllocsPerRun(100, func() { c.observer.step(c.ctx, step{event: event, effects: effects, why: c.machine.Why()}) }); got != 0 {
		t.Errorf("%v allocations for each event", got)
	}
	if len(collected.entries) != 0 {
		t.Errorf("%d lines", len(collected.entries))
	}
}

// TestPassingThroughIsNotLogged: a container without handlers has no machine, and
// no line.
func TestPassingThroughIsNotLogged(t *testing.T) {
	service, inner, _ := newTestService(t)
	ctx, collected := logTo(t.Context(), logrus.DebugLevel)
	create := &taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle(t, "", nil)}
	if _, err := service.Create(ctx, create); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := service.Kill(ctx, &taskapi.KillRequest{ID: "c1", Signal: 15}); err != nil {
			t.Fatal(err)
		}
	}
	_ = service.tap.Publish(ctx, "exit", &eventstypes.TaskExit{ContainerID: "c1", ID: "c1"})
	if len(collected.entries) != 0 || len(inner.Asked("Kill")) != 3 {
		t.Errorf("%d lines, %d kills", len(collected.entries), len(inner.Asked("Kill")))
	}
}

// TestCountStep: each change is counted in the step that makes it, and what stays as it was is not.
func TestCountStep(t *testing.T) {
	held, pending := lifecycle.Status{StartHeld: true}, lifecycle.Status{Pending: 15}
	abort := func(cause lifecycle.Cause) lifecycle.Effect {
		return lifecycle.Effect{Kind: lifecycle.AbortHandler, Cause: cause}
	}
	send := func(kind lifecycle.EffectKind, signal unix.Signal) lifecycle.Effect {
		return lifecycle.Effect{Kind: kind, Signal: lifecycle.Signal{Number: uint32(signal)}}
	}
	for name, test := range map[string]struct {
		before, after lifecycle.Status
		effects       []lifecycle.Effect
		want          metrics.Counts
	}{
		"nothing":                 {},
		"a start is held":         {after: held, want: metrics.Counts{metrics.StartsHeld: 1}},
		"it stays held":           {before: held, after: held},
		"it is answered":          {before: held, want: metrics.Counts{metrics.StartsDone: 1}},
		"a stop is delayed":       {after: pending, want: metrics.Counts{metrics.StopsDelayed: 1}},
		"it stays delayed":        {before: pending, after: pending},
		"it is signaled":          {before: pending, want: metrics.Counts{metrics.StopsSignaled: 1}},
		"two deadlines":           {effects: []lifecycle.Effect{abort(lifecycle.TimeLimit), abort(lifecycle.StopDeadline)}, want: metrics.Counts{metrics.Deadlines: 2}},
		"an abort for a stop":     {effects: []lifecycle.Effect{abort(lifecycle.StopRequest)}},
		"a cause of no abort":     {effects: []lifecycle.Effect{{Kind: lifecycle.RunHandler, Cause: lifecycle.TimeLimit}, {Kind: lifecycle.RunHandler, Cause: lifecycle.StopDeadline}}},
		"a SIGKILL":               {effects: []lifecycle.Effect{send(lifecycle.SendSignal, unix.SIGKILL)}, want: metrics.Counts{metrics.Kills: 1}},
		"a SIGTERM":               {effects: []lifecycle.Effect{send(lifecycle.SendSignal, unix.SIGTERM)}},
		"a SIGKILL of no sending": {effects: []lifecycle.Effect{send(lifecycle.RunHandler, unix.SIGKILL)}},
	} {
		if got := countStep(test.before, test.after, test.effects); !maps.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

// A step that changes nothing does not touch the file, which other shims write too.
func TestNothingIsNotCounted(t *testing.T) {
	s, _, _ := newTestService(t)
	path := filepath.Join(t.TempDir(), "m.prom")
	o := &observer{metricsFile: path, counters: s.counters}
	o.count(func() metrics.Counts { return metrics.Counts{} })
	s.flushCounts(t.Context())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
	if got := countRun(&handlerRun{}); got != nil { // a panic kept it from ending
		t.Errorf("a run that has not ended counts as %v", got)
	}
}

func askProcess(t *testing.T, s *service) *lifecyclev1.Process {
	t.Helper()
	response, err := (&statusService{service: s}).Status(t.Context(), &lifecyclev1.StatusRequest{Collect: true})
	if err != nil {
		t.Fatal(err)
	}
	return response.Shim
}

// TestProcessCounts: one more of each shows as one more, or a leak would not.
func TestProcessCounts(t *testing.T) {
	s := newService(t.Context(), shimtest.NewTask(), newTestEnding(t), newTestTap(t, &shimtest.Publisher{}), nil, nil)
	runtime.GC() // with the one of askProcess it empties the pools that earlier tests have filled
	before := askProcess(t, s)
	if before.Pid != uint32(os.Getpid()) || before.Version == "" || before.Goroutines == 0 || before.Threads == 0 || before.Descriptors < 3 || before.HeapBytes == 0 {
		t.Fatalf("got %v", before)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	kept := make([]byte, 8<<20)
	goOn := make(chan struct{})
	go func() { <-goOn }()
	after := askProcess(t, s)
	if after.Descriptors != before.Descriptors+2 {
		t.Errorf("%d descriptors, and with a pipe %d", before.Descriptors, after.Descriptors)
	}
	if after.Goroutines != before.Goroutines+1 {
		t.Errorf("%d goroutines, and with one more %d", before.Goroutines, after.Goroutines)
	}
	if grown := int64(after.HeapBytes) - int64(before.HeapBytes); grown < 7<<20 || grown > 9<<20 {
		t.Errorf("8 MiB are %d bytes", grown)
	}
	close(goOn)
	read.Close()
	write.Close()
	kept[0] = 1 // in use until here
}

// TestProcessCountsHandlers: those that ended, trials too.
func TestProcessCountsHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := both(newWorld(t, bothHandlers(), &fakeHandlers{postStart: takes(second, hookexec.Result{}), preStop: hangs})).serve()
		for run, want := range []uint64{0, 1} {
			if got := askProcess(t, w.service).Handlers; got != want {
				t.Errorf("after %d handlers it tells %d", run, got)
			}
			if run == 0 {
				w.start(0)
				pass(2 * second)
			}
		}
	})
}

// TestCounts: each thing that happens is counted once, and a trial never.
func TestCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lifecycle.prom")
	synctest.Test(t, func(t *testing.T) {
		config := lifecycle.Config{PostStart: &lifecycle.Handler{}, PreStop: &lifecycle.Handler{Timeout: second}, GracePeriod: 4 * second}
		w := both(newWorld(t, config, &fakeHandlers{postStart: takes(0, succeeded), preStop: hangs}))
		w.c.observer.metricsFile, w.c.observer.counters = path, w.service.counters
		w.serve().mustStart()
		if _, err := w.try("postStart"); err != nil {
			t.Fatal(err)
		}
		w.kill(unix.SIGTERM)
		pass(5 * second)
		w.exit()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		<-w.loopEnded
		w.service.flushCounts(t.Context())
	})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`lifecycle_shim_handlers_total{handler="postStart",type="exec",result="Succeeded"} 1`,
		`lifecycle_shim_handlers_total{handler="preStop",type="sleep",result="TimedOut"} 1`,
		`lifecycle_shim_handler_duration_seconds_sum{handler="preStop"} 1`,
		"lifecycle_shim_starts_held_total 1", "lifecycle_shim_starts_answered_total 1",
		"lifecycle_shim_stops_delayed_total 1", "lifecycle_shim_stops_signaled_total 1",
		"lifecycle_shim_deadlines_total 1", "lifecycle_shim_sigkills_total 1",
	} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}
