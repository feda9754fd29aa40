package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// wantCtlSoon runs it until it says these parts: what a handler writes reaches the shim a moment later, and so does its end.
func wantCtlSoon(b *bed.Bench, parts []string, args ...string) {
	b.Helper()
	b.Poll(fmt.Sprintf("lifecyclectl %s to say %q", strings.Join(args, " "), parts), func() bool {
		out, _, err := b.Ctl(args...)
		return err == nil && !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(out, part) })
	})
}

// wantCtlError runs it, and wants a failure with these words.
func wantCtlError(b *bed.Bench, parts []string, args ...string) {
	b.Helper()
	_, errOut, err := b.Ctl(args...)
	if err == nil {
		b.Errorf("lifecyclectl %s succeeds", strings.Join(args, " "))
	}
	for _, part := range parts {
		if !strings.Contains(errOut, part) {
			b.Errorf("lifecyclectl %s does not say %q: %s", strings.Join(args, " "), part, errOut)
		}
	}
}

// docs/spec.md#status: why does it not start, why does it not stop, what did its handler say?
func TestStatusOfWhatHangs(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		b.WantCtl([]string{"no containers with handlers"}, "status")
		c, result := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{postStart: {timeoutSeconds: 25, " + bed.Shell("echo waiting for the database; "+bed.WaitForGo) + "}, preStop: {" +
			bed.Shell("echo draining; touch /draining; while [ ! -e /drained ]; do sleep 0.02; done") + "}, terminationGracePeriodSeconds: 60}"}, bed.Obedient)
		c.WaitFor("begun")
		c.WaitFor("ready")
		asked := time.Now()
		b.WantCtl([]string{b.Client.Namespace, c.ID, "PostStart", "postStart exec", "running", "(timeoutSeconds)"}, "status", c.ID)
		if took := time.Since(asked); took > 5*time.Second {
			b.Errorf("the answer took %s", took)
		}
		wantCtlSoon(b, []string{"waiting for the database"}, "status", c.ID)
		c.Touch("go")
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		b.WantCtl([]string{"Running", "Succeeded"}, "status")
		c.Signal(syscall.SIGTERM)
		c.WaitFor("draining")
		wantCtlSoon(b, []string{"PreStop (SIGTERM waits)", "preStop exec", "(terminationGracePeriodSeconds)", "draining"}, "status")
		b.WantCtl([]string{"==> postStart, exec /bin/sh -c", "waiting for the database", "==> preStop", "running after", "draining"}, "logs", c.ID)
		c.Touch("drained")
		c.WantExit(7)
		wantCtlSoon(b, []string{"Exited"}, "status", c.ID)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.WantCtl([]string{"no containers with handlers"}, "status")
	})
}

// docs/spec.md#status: within a second, status names the container, the handler, for how long
// it has run, until when it may and who says so, and what it said last; also while containerd is dead.
func TestStatusWithinASecond(t *testing.T) {
	bed.OnOwn(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		const script = "touch begun; for i in 1 2 3; do while [ ! -e /say$i ]; do sleep 0.01; done; echo step $i; touch /said$i; done; while [ ! -e go ]; do sleep 0.02; done"
		c, result := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{postStart: {timeoutSeconds: 300, " + bed.Shell(script) + "}, preStop: {" +
			bed.Shell("rm -f /begun /go /sa*; "+script) + "}, terminationGracePeriodSeconds: 200}"}, bed.Obedient)
		c.WaitFor("begun")
		c.WaitFor("ready")
		// As late as the first step, so that the deadline counts from before this.
		wantStatusWithinASecond(b, c, runShown{Phase: "PostStart", Handler: "postStart", Owner: "timeoutSeconds", Limit: 300 * time.Second, Words: "-"})
		for step := 1; step <= 3; step++ {
			c.Touch(fmt.Sprintf("say%d", step))
			c.WaitFor(fmt.Sprintf("said%d", step))
			wantStatusWithinASecond(b, c, runShown{Phase: "PostStart", Handler: "postStart", Owner: "timeoutSeconds", Limit: 300 * time.Second, Words: fmt.Sprintf("step %d", step)})
		}
		c.Touch("go")
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		if err := os.Remove(c.Path("begun")); err != nil {
			b.Fatal(err)
		}
		c.Signal(syscall.SIGTERM)
		c.WaitFor("begun")
		// 2 s of the 200 s are the signal's.
		wantStatusWithinASecond(b, c, runShown{Phase: "PreStop (SIGTERM waits)", Handler: "preStop", Owner: "terminationGracePeriodSeconds", Limit: 198 * time.Second, Words: "-"})
		if err := b.Daemon.Kill(); err != nil {
			b.Fatal(err)
		}
		c.Touch("say1")
		c.WaitFor("said1")
		wantStatusWithinASecond(b, c, runShown{Phase: "PreStop (SIGTERM waits)", Handler: "preStop", Owner: "terminationGracePeriodSeconds", Limit: 198 * time.Second, Words: "step 1"})
		if err := b.Daemon.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		for _, name := range []string{"say2", "say3", "go"} {
			c.Touch(name)
		}
		c.WantExit(7)
	})
}

// runShown is the last row of a container in the table of status.
type runShown struct {
	Phase, Handler, Owner, Words string
	Limit                        time.Duration // from its start to its end
}

var statusRow = regexp.MustCompile(`^(\S+) +(\S+) +(\S+(?: \(.*?\))?) +(\S+) exec +running +(\S+) +1 +in (\S+) \((.*?)\) +(.*?) *$`)

// wantStatusWithinASecond asks a few times: a machine that is busy may be slow, the answer itself is not.
func wantStatusWithinASecond(b *bed.Bench, c *bed.Container, want runShown) {
	b.Helper()
	if want.Words != "-" {
		wantCtlSoon(b, []string{want.Words}, "status", c.ID)
	}
	best := bed.Limit
	for try := 0; try < 20 && best > time.Second; try++ {
		asked := time.Now()
		out := b.WantCtl(nil, "status", c.ID)
		best = min(best, time.Since(asked))
		lines := strings.Split(strings.TrimSpace(out), "\n")
		row := statusRow.FindStringSubmatch(lines[len(lines)-1])
		if row == nil {
			b.Fatalf("no handler that runs in\n%s", out)
		}
		if got := (runShown{Phase: row[3], Handler: row[4], Owner: row[7], Words: row[8], Limit: want.Limit}); row[1] != b.Client.Namespace || row[2] != c.ID || got != want {
			b.Fatalf("got %s %s %+v, want %s %s %+v", row[1], row[2], got, b.Client.Namespace, c.ID, want)
		}
		took, err := time.ParseDuration(row[5])
		left, leftErr := time.ParseDuration(row[6])
		if err != nil || leftErr != nil || took <= 0 || (took+left-want.Limit).Abs() > 2*time.Second {
			b.Fatalf("it has run for %s (%v) and may for another %s (%v), of %s", row[5], err, row[6], leftErr, want.Limit)
		}
	}
	if best > time.Second {
		b.Errorf("the fastest of the answers took %s", best)
	}
}

// Where to look is said as to ctr: by flags, which win, or by the environment.
func TestCtlLooksWhereItIsTold(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("echo tried")}, bed.Obedient)
		c.WaitFor("ready")
		b.WantCtl([]string{"tried"}, "run", c.ID, "preStop")
		ask := func(environment []string, args ...string) string {
			command := exec.CommandContext(b.Context(), filepath.Join(bed.BinDir(b), "lifecyclectl"), args...)
			command.Env = environment
			out, _ := command.CombinedOutput()
			return string(out)
		}
		here := []string{"CONTAINERD_ADDRESS=" + b.Daemon.Address, "CONTAINERD_NAMESPACE=" + b.Client.Namespace}
		asURL := []string{"CONTAINERD_ADDRESS=unix://" + b.Daemon.Address, "CONTAINERD_NAMESPACE=" + b.Client.Namespace}
		nobody := []string{"CONTAINERD_ADDRESS=" + b.Daemon.Address, "CONTAINERD_NAMESPACE=nobodys"}
		nowhere := []string{"CONTAINERD_ADDRESS=/nowhere.sock", "CONTAINERD_NAMESPACE=" + b.Client.Namespace}
		flags := []string{"-a", b.Daemon.Address, "-n", b.Client.Namespace}
		for _, test := range []struct {
			args []string
			says string
		}{
			{[]string{"status"}, c.ID + "  "},
			{[]string{"status", "-o", "json"}, `"id": "` + c.ID + `"`},
			{[]string{"logs", c.ID}, "tried"},
			{[]string{"run", c.ID, "preStop"}, "tried"},
		} {
			for name, environment := range map[string][]string{"the environment": here, "the environment, with a URL": asURL} {
				if out := ask(environment, test.args...); !strings.Contains(out, test.says) {
					b.Errorf("%s, told by %s, does not say %q: %s", test.args, name, test.says, out)
				}
			}
			for _, environment := range [][]string{nobody, nowhere} {
				if out := ask(environment, test.args...); strings.Contains(out, test.says) {
					b.Errorf("%s looks elsewhere than %s: %s", test.args, environment, out)
				}
				if out := ask(environment, append(flags, test.args...)...); !strings.Contains(out, test.says) {
					b.Errorf("%s: the flags do not win over %s: %s", test.args, environment, out)
				}
			}
		}
		if out := ask(nowhere, "events"); !strings.Contains(out, "cannot reach a containerd at /nowhere.sock") {
			b.Errorf("events of nowhere: %s", out)
		}
		if out := ask(nobody, "status", "x"); !strings.Contains(out, `in the namespace "nobodys"`) || !strings.Contains(out, b.Daemon.Address) {
			b.Errorf("it is not told where was looked: %s", out)
		}
		// The stream of events is followed where the environment says, and of that namespace only.
		for name, test := range map[string]struct {
			environment []string
			heard       bool
		}{"here": {asURL, true}, "of nobody": {nobody, false}} {
			ctx, cancel := context.WithCancel(b.Context())
			var out syncBuffer
			follow := exec.CommandContext(ctx, filepath.Join(bed.BinDir(b), "lifecyclectl"), "events", "-o", "json")
			follow.Env, follow.Stdout, follow.Stderr = test.environment, &out, &out
			if err := follow.Start(); err != nil {
				b.Fatal(err)
			}
			if test.heard {
				b.Poll("the events", func() bool {
					b.WantCtl(nil, "run", c.ID, "preStop")
					return strings.Contains(out.String(), "handler-finished")
				})
			} else {
				for range 5 {
					b.WantCtl(nil, "run", c.ID, "preStop")
				}
			}
			cancel()
			_ = follow.Wait() // killed by its context
			if heard := strings.Contains(out.String(), "handler-finished"); heard != test.heard {
				b.Errorf("%s: events are heard: %t: %s", name, heard, out.String())
			}
		}
	})
}

func TestStatusForPrograms(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "{failurePolicy: Ignore, " + bed.Shell("echo bad; exit 3") + "}"}, bed.Forever)
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		var shown struct {
			Containers []struct {
				Namespace, ID, Phase string
				Runs                 []struct {
					Handler, Type, Result, Error, Output string
					ExitCode                             int
				}
			}
			Shims []struct {
				Namespace, Version, Handlers, HeapBytes string
				Pid, Goroutines, Threads, Descriptors   int
			}
		}
		if err := json.Unmarshal([]byte(b.WantCtl(nil, "status", "-o", "json")), &shown); err != nil {
			b.Fatal(err)
		}
		if len(shown.Containers) != 1 || len(shown.Containers[0].Runs) != 1 {
			b.Fatalf("got %+v", shown)
		}
		container, run := shown.Containers[0], shown.Containers[0].Runs[0]
		if container.Namespace != b.Client.Namespace || container.ID != c.ID || container.Phase != "Running" {
			b.Errorf("got %+v", container)
		}
		if run.Handler != "postStart" || run.Type != "exec" || run.Result != "Failed" || run.ExitCode != 3 || run.Output != "bad\n" || run.Error != "exit status 3" {
			b.Errorf("got %+v", run)
		}
		shims, err := b.Daemon.Shims()
		if err != nil || len(shims) != 1 || len(shown.Shims) != 1 {
			b.Fatalf("shims %v (%v), shown %+v", shims, err, shown.Shims)
		}
		shim := shown.Shims[0]
		if shim.Pid != shims[0].PID || shim.Namespace != b.Client.Namespace || shim.Handlers != "1" || shim.Version == "" || shim.HeapBytes == "" {
			b.Errorf("got %+v", shim)
		}
		threads, err := shims[0].Threads()
		if err != nil || shim.Threads < len(threads)-4 || shim.Threads > len(threads)+4 || shim.Descriptors < 10 || shim.Goroutines < 10 { // the runtime's come and go
			b.Errorf("got %+v, and it has %d threads (%v)", shim, len(threads), err)
		}
		b.WantCtl([]string{"phase: Running", "result: Failed", "exitCode: 3"}, "status", "-o", "yaml")
		wantCtlError(b, []string{"table, json or yaml"}, "status", "-o", "xml")
	})
}

// An operator's mistake is reported, with what to do.
func TestCtlErrors(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		b.Start(bed.Annotations{bed.KeyPostStart: bed.Shell("true")}, bed.Forever)
		b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, bed.Forever)
		wantCtlError(b, []string{`cannot find a container "x"`, b.Client.Namespace, "lifecyclectl status"}, "status", "x")
		wantCtlError(b, []string{`cannot find a container "x"`, "lifecyclectl status"}, "logs", "x")
		wantCtlError(b, []string{`"c" is the prefix of 2 ids`, "c1", "c2"}, "logs", "c")
		wantCtlError(b, []string{"no handler of container c2 has run yet"}, "logs", "c2")
		wantCtlError(b, []string{`container "c1" has no handler "preStop"`}, "run", "c1", "preStop")
		wantCtlError(b, []string{"accepts 2 arg(s)"}, "run", "c1")
		wantCtlError(b, []string{"cannot reach a containerd at /nowhere", "--address"}, "--address", "/nowhere", "events")
	})
}

// A handler is tried, and the container continues.
//
// See docs/spec.md#trial.
func TestTrialOfAHandler(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("echo $LIFECYCLE_SIGNAL | tee -a /tried; [ -e /good ]")}, bed.Obedient)
		c.WaitFor("ready")
		wantCtlError(b, []string{"preStop of container c1: Failed after", "exit status 1"}, "run", "c1", "preStop")
		c.Touch("good")
		b.WantCtl([]string{"SIGTERM\n"}, "run", "c1", "preStop")
		b.WantCtl([]string{"preStop exec (trial)", "Failed", "Succeeded"}, "status")
		if got := c.Read("tried"); got != "SIGTERM\nSIGTERM\n" || c.Exists("signals") {
			b.Errorf("tried %q; the container got a signal: %t", got, c.Exists("signals"))
		}
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		if got := c.Read("tried"); got != "SIGTERM\nSIGTERM\nSIGTERM\n" {
			b.Errorf("%q: preStop does not run for real after its trials", got)
		}
	})
}

// docs/spec.md#events: the shim's events are on containerd's stream, in order with the task's.
func TestHandlerEvents(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		var out syncBuffer
		follow := b.CtlCommand(ctx, "events")
		follow.Stdout, follow.Stderr = &out, &out
		if err := follow.Start(); err != nil {
			b.Fatal(err)
		}
		defer func() { _ = follow.Wait() }() // killed by its context
		defer cancel()
		other := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, bed.Forever)
		b.Poll("lifecyclectl to follow", func() bool {
			b.WantCtl(nil, "run", other.ID, "preStop")
			return strings.Contains(out.String(), other.ID+" preStop Succeeded")
		})
		c := b.NewContainer(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell("true") + "}, preStop: {" + bed.Shell("exit 2") + "}}"}, bed.Obedient)
		if _, _, err := c.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		const started, finished = "/lifecycle/handler-started", "/lifecycle/handler-finished"
		c.WantAllTopics(bed.TopicCreate, started, finished, bed.TopicStart, started, finished, bed.TopicExit, bed.TopicDelete)
		b.Poll("what lifecyclectl says of them", func() bool { return strings.Contains(out.String(), "preStop Failed") })
		for _, part := range []string{"c2 postStart started (exec)", "c2 postStart Succeeded after ", "c2 preStop Failed after ", ": exit status 2"} {
			if !strings.Contains(out.String(), part) {
				b.Errorf("lifecyclectl events does not say %q:\n%s", part, out.String())
			}
		}
	})
}

// syncBuffer is written to by one goroutine and read by another.
type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buffer.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buffer.String()
}
