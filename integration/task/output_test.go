package task

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// stream is the stdout of a container, read by the test as a client would.
type stream struct {
	b    *bed.Bench
	path string
	file *os.File
	mu   sync.Mutex
	text strings.Builder
	done chan struct{} // closed when every writer has gone
}

// newStream makes a FIFO that is open, and not read before follow.
func newStream(b *bed.Bench) *stream {
	b.Helper()
	s := &stream{b: b, path: filepath.Join(b.TempDir(), "stdout"), done: make(chan struct{})}
	if err := syscall.Mkfifo(s.path, 0o700); err != nil {
		b.Fatal(err)
	}
	file, err := os.OpenFile(s.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		b.Fatal(err)
	}
	s.file = file
	b.Cleanup(func() { _ = file.Close() })
	return s
}

// follow reads, once the shim has opened the FIFO too: else it would be at its end.
func (s *stream) follow() {
	go func() {
		defer close(s.done)
		buffer := make([]byte, 64<<10)
		for {
			n, err := s.file.Read(buffer)
			s.mu.Lock()
			s.text.Write(buffer[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

func (s *stream) read() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// end waits until no process holds the stream open any more, and returns all of it.
func (s *stream) end() string {
	s.b.Helper()
	select {
	case <-s.done:
	case <-time.After(bed.Limit):
		s.b.Fatal("a process holds the container's stdout open")
	}
	return s.read()
}

// createWith creates the container with its own stdout. A FIFO is for stderr too.
func createWith(c *bed.Container, stdout string, terminal bool) {
	c.B.Helper()
	request := &tasks.CreateTaskRequest{Stdout: stdout, Terminal: terminal}
	if filepath.IsAbs(stdout) && !terminal {
		request.Stderr = stdout
	}
	if _, err := c.CreateWith(c.B.Context(), request); err != nil {
		c.B.Fatal(err)
	}
}

// wantStart starts what was created.
func wantStart(c *bed.Container) {
	c.B.Helper()
	if _, _, err := c.Start(c.B.Context()); err != nil {
		c.B.Fatal(err)
	}
}

// docs/spec.md#output-log: a FIFO, as ctr, docker and CRI have it. The lines of the handlers are among the container's own, as
// they were written; nothing of them is kept from the status; the client sees the end of the stream in time.
func TestOutputInTheLog(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		out := newStream(b)
		c := b.NewContainer(bed.Annotations{bed.KeyLifecycle: "{postStart: {output: Log, retryPeriodSeconds: 1, " +
			bed.Shell(bed.WaitForGo+"echo größe 1; echo an error >&2; echo; printf 'no end'; [ -e /again ] || { touch /again; exit 1; }") +
			"}, preStop: " + bed.LogOutput("echo bye; echo $LIFECYCLE_SIGNAL") + "}"}, bed.Talking)
		createWith(c, out.path, false)
		out.follow()
		goOnce(c, c.StartLater(), func() bool { return strings.Contains(out.read(), "the container begins") })
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		c.DeleteTask()
		attempt := "[postStart] größe 1\n[postStart] an error\n[postStart] \n[postStart] no end\n"
		if got, want := out.end(), "the container begins\n"+attempt+attempt+"[preStop] bye\n[preStop] SIGTERM\nthe container ends\n"; got != want {
			b.Errorf("the stream has %q, want %q", got, want)
		}
	})
}

// goOnce lets a waiting postStart continue when what the container itself has said can be read: it has another way to
// there, and may be the later one.
func goOnce(c *bed.Container, start <-chan bed.Answer, read func() bool) {
	c.B.Helper()
	c.WaitFor("begun")
	c.B.Poll("the container's own line", read)
	c.Touch("go")
	if r := c.B.Await(start); r.Err != nil {
		c.B.Fatal(r.Err)
	}
}

// docs/spec.md#output-log: file://, which the container's own output is in too; also when it has been rotated away, and when its
// name leads elsewhere, which a container with the directory of its log could do.
func TestOutputInAFile(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c, start := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{postStart: " + bed.LogOutput(bed.WaitForGo+"echo hello; sleep 1000 & exit 0") +
			", preStop: " + bed.LogOutput("echo bye") + "}"}, bed.Talking)
		goOnce(c, start, func() bool {
			got, err := os.ReadFile(c.OutputFile)
			return err == nil && strings.Contains(string(got), "the container begins")
		})
		if got, err := os.ReadFile(c.OutputFile); string(got) != "the container begins\n[postStart] hello\n" {
			b.Errorf("%q, %v", got, err)
		}
		rotated, victim := c.OutputFile+".1", filepath.Join(b.TempDir(), "victim")
		if err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Rename(c.OutputFile, rotated), os.Symlink(victim, c.OutputFile)); err != nil {
			b.Fatal(err)
		}
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		c.DeleteTask()
		b.Poll("the last line", func() bool {
			got, err := os.ReadFile(rotated)
			return err == nil && string(got) == "the container begins\n[postStart] hello\n[preStop] bye\nthe container ends\n"
		})
		if got, err := os.ReadFile(victim); len(got) > 0 || err != nil {
			b.Errorf("what the name leads to now has %q, %v", got, err)
		}
	})
}

// docs/spec.md#output-log: a logger's pipe is reached also where the container has put something else in the place of its
// stdout, and what it has put there is not touched.
func TestOutputToALogger(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		for _, scheme := range []string{"binary", "binary-v2"} {
			log := filepath.Join(b.TempDir(), "log")
			c := b.NewContainer(bed.Annotations{bed.KeyLifecycle: "{postStart: " + bed.LogOutput(bed.WaitForGo+"echo hello; echo an error >&2") +
				", preStop: " + bed.LogOutput("echo bye") + "}"},
				[]string{"/bin/sh", "-c", "echo the container begins; echo its error >&2; exec 3>&1 >/stolen; touch ready; trap 'echo the container ends >&3; exit 7' TERM; sleep 1000 & while :; do wait; done"})
			createWith(c, fmt.Sprintf("%s://%s?FILE=%s", scheme, filepath.Join(bed.BinDir(b), "testlogger"), log), false)
			goOnce(c, c.StartLater(), func() bool {
				got, err := os.ReadFile(log)
				return err == nil && strings.Contains(string(got), "the container begins")
			})
			c.Signal(syscall.SIGTERM)
			c.WantExit(7)
			c.DeleteTask()
			want := []string{"stdout: the container begins", "stdout: [postStart] hello", "stdout: [postStart] an error", "stdout: [preStop] bye", "stdout: the container ends"}
			b.Poll("the end of the logger", func() bool { return strings.Contains(bed.ReadFile(b, filepath.Dir(log), "log"), "the container ends") })
			text := bed.ReadFile(b, filepath.Dir(log), "log")
			if got := strings.ReplaceAll(text, "stderr: its error\n", ""); got != strings.Join(want, "\n")+"\n" || got == text {
				b.Errorf("the log has %q, want %q and its error", text, want)
			}
			if stolen := c.Read("stolen"); stolen != "" {
				b.Errorf("the container has got %q", stolen)
			}
		}
	})
}

// docs/spec.md#output-log: with a terminal the lines are in its output, ended as a terminal in raw mode needs it. They do not
// pass through the container's terminal: what reads from it gets nothing.
func TestOutputOnATerminal(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		out := newStream(b)
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.LogOutput(bed.WaitForGo + "echo hello; echo there")},
			[]string{"/bin/sh", "-c", "stty raw -echo; echo the container begins; cat >/typed & touch ready; sleep 1000"},
			func(config *harness.ContainerConfig) { config.Terminal = true })
		createWith(c, out.path, true)
		out.follow()
		goOnce(c, c.StartLater(), func() bool { return strings.Contains(out.read(), "the container begins") })
		b.Poll("the lines", func() bool { return strings.Contains(out.read(), "there") })
		if got := out.read(); !strings.Contains(got, "the container begins") || !strings.HasSuffix(got, "[postStart] hello\r\n[postStart] there\r\n") {
			b.Errorf("the stream has %q", got)
		}
		if typed := c.Read("typed"); typed != "" {
			b.Errorf("the container reads %q from its terminal", typed)
		}
		c.End(137)
	})
}

// docs/spec.md#output-log: where there is no stream, the output is in the status, which says why it is nowhere else.
func TestOutputThatGoesNowhere(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		for _, test := range []struct {
			stdout   string
			terminal bool
			says     string
		}{
			{"", false, "no stdout"},
			{"binary://" + filepath.Join(bed.BinDir(b), "testlogger") + "?FILE=" + filepath.Join(b.TempDir(), "log"), true, "has a terminal"},
		} {
			c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.LogOutput("echo hello; echo there")}, bed.Forever,
				func(config *harness.ContainerConfig) { config.Terminal = test.terminal })
			createWith(c, test.stdout, test.terminal)
			wantStart(c)
			run := c.Runs()[0]
			if run.Result != "Succeeded" || run.Output != "hello\nthere\n" || run.LostLines != 2 || !strings.Contains(run.LogError, test.says) {
				b.Errorf("stdout %q: the status has %+v", test.stdout, run)
			}
			b.WantCtl([]string{"hello\nthere\n[2 lines are not in the container's log: ", test.says}, "logs", c.ID)
			c.End(137)
		}
	})
}

// docs/spec.md#output-log: it is off by default; the node's or the runtime's options turn it on, a handler has the last word.
func TestOutputByTheSettings(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		for _, test := range []struct{ options, handler, want string }{
			{"", bed.Shell("echo hello"), ""},
			{`HandlerOutput = "Status"`, bed.Shell("echo hello"), ""},
			{`HandlerOutput = "Log"`, bed.Shell("echo hello"), "[postStart] hello\n"},
			{`HandlerOutput = "Log"`, "{output: Status, " + bed.Shell("echo hello") + "}", ""},
			{`HandlerOutput = "Log"`, "{sleep: {seconds: 0}}", ""},
			{`HandlerOutput = "Status"`, bed.LogOutput("echo hello"), "[postStart] hello\n"},
		} {
			c := b.Start(bed.Annotations{bed.KeyPostStart: test.handler}, bed.Forever, bed.WithOptions(b, test.options))
			if got, err := os.ReadFile(c.OutputFile); string(got) != test.want {
				b.Errorf("%+v: %q, %v", test, got, err)
			}
		}
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("true")}, bed.Forever, bed.WithOptions(b, `HandlerOutput = "log"`))
		_, err := c.Create(b.Context())
		b.WantError(err, `HandlerOutput: "log" is neither "Status" nor "Log"`)
		c = b.NewContainer(bed.Annotations{bed.KeyPreStop: "{output: Log, sleep: {seconds: 1}}"}, bed.Forever)
		_, err = c.Create(b.Context())
		b.WantError(err, bed.KeyPreStop, "preStop.output", "exec only")
	})
}

// bulk is a script that prints so many numbered lines of 100 bytes.
func bulk(lines int) string {
	return fmt.Sprintf("yes %s | head -n %d | cat -n", strings.Repeat("x", 92), lines)
}

var bulkLine = regexp.MustCompile(`^\[postStart\] +(\d+)\tx{92}$`)

// countBulk checks that every line is whole and in order, and that as many are missing as is said.
func countBulk(t *testing.T, text io.Reader, lost int64, lines int) (own int) {
	t.Helper()
	last, count, told := 0, 0, int64(0)
	for scanner := bufio.NewScanner(text); scanner.Scan(); {
		line := scanner.Text()
		var number, dropped int
		switch match := bulkLine.FindStringSubmatch(line); {
		case match != nil:
			_, _ = fmt.Sscan(match[1], &number)
			if count++; number <= last {
				t.Fatalf("line %d comes after line %d", number, last)
			}
			last = number
		case strings.HasPrefix(line, "own "):
			own++
		default:
			if n, _ := fmt.Sscanf(line, "[postStart] [%d lines dropped]", &dropped); n != 1 {
				t.Fatalf("a line %q", line)
			}
			told += int64(dropped)
		}
	}
	if int64(count)+lost != int64(lines) || told > lost {
		t.Errorf("%d lines came, %d are lost and %d of them told, of %d", count, lost, told, lines)
	}
	t.Logf("%d lines of %d came", count, lines)
	return own
}

// 10 MB of output beside a container that writes too: no line is mixed or lost in silence, the shim keeps none
// of it, and what goes on beside it goes on.
func TestOutputInBulk(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		const lines = 100_000
		p := b.NewGroup()
		out := newStream(b)
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.LogOutput(bulk(lines))},
			[]string{"/bin/sh", "-c", "i=0; while [ $i -lt 500 ]; do echo own $i; i=$((i+1)); done; touch written; sleep 1000"}, p.Member)
		createWith(c, out.path, false)
		out.follow()
		wantStart(c)
		c.WaitFor("written")
		run := c.Runs()[0]
		c.End(137)
		if own := countBulk(b.T, strings.NewReader(out.end()), run.LostLines, lines); own != 500 {
			b.Errorf("%d of the container's own lines came, of 500", own)
		}
		p.WantUnharmed()
	})
}

// A client that does not read holds up nothing: neither the start, nor preStop, nor the stop, nor the container
// itself, nor its neighbours. It shows how much was dropped.
func TestOutputThatNobodyReads(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		const lines = 100_000
		p := b.NewGroup()
		out := newStream(b)               // not followed
		line := strings.Repeat("y", 4000) // too long for the rest of a page of the FIFO, once it has a line of postStart's
		c := b.NewContainer(bed.Annotations{bed.KeyLifecycle: "{postStart: " + bed.LogOutput(bulk(lines)) + ", preStop: " + bed.LogOutput("echo "+line+"; touch /stopped") + "}"}, bed.Obedient, p.Member)
		createWith(c, out.path, false)
		_, took, err := c.Start(b.Context())
		if err != nil || took > 15*time.Second {
			b.Fatalf("the start took %s, %v", took, err)
		}
		c.WaitFor("ready")
		run := c.Runs()[0]
		if run.LostLines == 0 || !strings.Contains(run.LogError, "not read fast enough") {
			b.Errorf("the status has %+v", run)
		}
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		if !c.Exists("stopped") {
			b.Error("preStop has not run")
		}
		if last := c.Runs()[1]; last.LostLines != 1 {
			b.Errorf("of preStop, the status has %+v", last)
		}
		out.follow() // now the client reads, and what it finds are whole lines
		c.DeleteTask()
		countBulk(b.T, strings.NewReader(out.end()), run.LostLines, lines)
		b.Poll("the warning", func() bool {
			return strings.Contains(b.Daemon.Log()[b.LogStart:], "lines of a handler's output are missing in the container's log")
		})
		p.WantUnharmed()
	})
}

// A client that goes takes nothing with it.
func TestOutputWhoseReaderGoes(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		out := newStream(b)
		c := b.NewContainer(bed.Annotations{bed.KeyLifecycle: "{postStart: " + bed.LogOutput("echo hello; "+bed.WaitForGo+"echo there") + ", preStop: " + bed.LogOutput("echo bye; touch /stopped") + "}"}, bed.Obedient)
		createWith(c, out.path, false)
		result := c.StartLater()
		c.WaitFor("begun")
		if err := out.file.Close(); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(out.path); err != nil {
			b.Fatal(err)
		}
		c.Touch("go")
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		for _, run := range c.Runs() {
			if run.Result != "Succeeded" {
				b.Errorf("the status has %+v", run)
			}
		}
		if !c.Exists("stopped") {
			b.Error("preStop has not run")
		}
	})
}

// docs/spec.md#log: a handler's output is nowhere in the shim's log above debug level, wherever it goes.
func TestOutputIsNotInTheShimsLog(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyLifecycle: "{postStart: " + bed.LogOutput("echo pass''word; env") + ", preStop: " + bed.LogOutput("echo pass''word; exit 3") + "}"}, bed.Obedient,
			func(config *harness.ContainerConfig) { config.Env = []string{"TOKEN=pass1word"} })
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		c.DeleteTask()
		b.Poll("the ends in the log", func() bool { return strings.Count(b.Daemon.Log()[b.LogStart:], `msg="handler ended"`) == 2 })
		for line := range strings.Lines(b.Daemon.Log()[b.LogStart:]) {
			if strings.Contains(line, "level=debug") {
				continue
			}
			if strings.Contains(line, "password") || strings.Contains(line, "pass1word") {
				b.Errorf("the log has %q", line)
			}
		}
	})
}

// At debug level the shim's log says of every step what has happened and why.
func TestDebugLogSaysWhy(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyLifecycle: "{preStop: {sleep: {seconds: 0}}, terminationGracePeriodSeconds: 20}"}, bed.Obedient)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		c.DeleteTask()
		want := [][]string{
			{"event=KillRequested", "from=Running", "state=PreStop", `effects="Answer, RunHandler preStop"`, `why="the stop signal waits for preStop"`, "owner=terminationGracePeriodSeconds", "signal=15"},
			{"event=HandlerEnded", "from=PreStop", "state=Stopping", `effects="SendSignal 15"`, "result=Succeeded", `why="preStop has ended: the stop signal is sent"`},
			{"event=ContainerExited", "from=Stopping", "state=Exited"},
			{"event=DeleteReturned", "from=Exited", "state=Deleted", `why="the container is deleted"`},
		}
		b.Poll("the lines", func() bool {
			for _, words := range want {
				if !b.Logs(append(words, "msg=lifecycle", "level=debug", "id="+c.ID, "namespace="+b.Client.Namespace)) {
					return false
				}
			}
			return true
		})
	})
}
