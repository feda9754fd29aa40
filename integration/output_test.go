package integration

import (
	"bufio"
	"encoding/json"
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

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// logged is a handler whose output goes to the container's log.
func logged(script string) string { return "{output: Log, " + shell(script) + "}" }

// says is an entrypoint that says something, and something else when it is stopped.
var says = []string{"/bin/sh", "-c", `trap 'echo the container ends; exit 7' TERM; echo the container begins; touch ready; sleep 1000 & while :; do wait; done`}

// stream is the stdout of a container, read by the test as a client would.
type stream struct {
	b    *bench
	path string
	file *os.File
	mu   sync.Mutex
	text strings.Builder
	done chan struct{} // closed when every writer has gone
}

// newStream makes a FIFO that is open, and not read before follow.
func (b *bench) newStream() *stream {
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

// end waits until nobody holds the stream open any more, and returns all of it.
func (s *stream) end() string {
	s.b.Helper()
	select {
	case <-s.done:
	case <-time.After(limit):
		s.b.Fatal("somebody holds the container's stdout open")
	}
	return s.read()
}

// createWith creates the container with a stdout of its own. A FIFO is for stderr too.
func (c *container) createWith(stdout string, terminal bool) {
	c.b.Helper()
	request := &tasks.CreateTaskRequest{Stdout: stdout, Terminal: terminal}
	if filepath.IsAbs(stdout) && !terminal {
		request.Stderr = stdout
	}
	if _, err := c.CreateWith(c.b.Context(), request); err != nil {
		c.b.Fatal(err)
	}
}

// wantStart starts what was created.
func (c *container) wantStart() {
	c.b.Helper()
	if _, _, err := c.Start(c.b.Context()); err != nil {
		c.b.Fatal(err)
	}
}

// runOfStatus is what the status says of a handler's run.
type runOfStatus struct {
	Handler, Result, Output, LogError string
	LostLines                         int64 `json:",string"`
}

func (c *container) runs() []runOfStatus {
	c.b.Helper()
	var shown struct {
		Containers []struct{ Runs []runOfStatus }
	}
	if err := json.Unmarshal([]byte(c.b.wantCtl(nil, "status", c.ID, "-o", "json")), &shown); err != nil {
		c.b.Fatal(err)
	}
	if len(shown.Containers) != 1 {
		c.b.Fatalf("got %+v", shown)
	}
	return shown.Containers[0].Runs
}

// docs/spec.md#output-log: a FIFO, as ctr, docker and CRI have it. The lines of the handlers are among the container's own, as
// they were written; nothing of them is kept from the status; the client sees the end of the stream in time.
func TestOutputInTheLog(t *testing.T) {
	on(t, targets, func(b *bench) {
		out := b.newStream()
		c := b.newContainer(with{keyLifecycle: "{postStart: {output: Log, retryPeriodSeconds: 1, " +
			shell(waiting+"echo größe 1; echo an error >&2; echo; printf 'no end'; [ -e /again ] || { touch /again; exit 1; }") +
			"}, preStop: " + logged("echo bye; echo $LIFECYCLE_SIGNAL") + "}"}, says)
		c.createWith(out.path, false)
		out.follow()
		c.goOnce(c.startLater(), func() bool { return strings.Contains(out.read(), "the container begins") })
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		c.delete()
		attempt := "[postStart] größe 1\n[postStart] an error\n[postStart] \n[postStart] no end\n"
		if got, want := out.end(), "the container begins\n"+attempt+attempt+"[preStop] bye\n[preStop] SIGTERM\nthe container ends\n"; got != want {
			b.Errorf("the stream has %q, want %q", got, want)
		}
	})
}

// goOnce lets a waiting postStart go on when what the container itself has said can be read: it has another way to
// there, and may be the later one.
func (c *container) goOnce(start <-chan started, read func() bool) {
	c.b.Helper()
	c.waitFor("begun")
	c.b.poll("the container's own line", read)
	c.touch("go")
	if r := c.b.result(start); r.err != nil {
		c.b.Fatal(r.err)
	}
}

// docs/spec.md#output-log: file://, which the container's own output is in too; also when it has been rotated away, and when its
// name leads elsewhere, which a container with the directory of its log could do.
func TestOutputInAFile(t *testing.T) {
	on(t, targets, func(b *bench) {
		c, start := b.runLater(with{keyLifecycle: "{postStart: " + logged(waiting+"echo hello; sleep 1000 & exit 0") +
			", preStop: " + logged("echo bye") + "}"}, says)
		c.goOnce(start, func() bool {
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
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		c.delete()
		b.poll("the last line", func() bool {
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
	on(t, targets, func(b *bench) {
		for _, scheme := range []string{"binary", "binary-v2"} {
			log := filepath.Join(b.TempDir(), "log")
			c := b.newContainer(with{keyLifecycle: "{postStart: " + logged(waiting+"echo hello; echo an error >&2") +
				", preStop: " + logged("echo bye") + "}"},
				[]string{"/bin/sh", "-c", "echo the container begins; echo its error >&2; exec 3>&1 >/stolen; touch ready; trap 'echo the container ends >&3; exit 7' TERM; sleep 1000 & while :; do wait; done"})
			c.createWith(fmt.Sprintf("%s://%s?FILE=%s", scheme, filepath.Join(binDir(b), "testlogger"), log), false)
			c.goOnce(c.startLater(), func() bool {
				got, err := os.ReadFile(log)
				return err == nil && strings.Contains(string(got), "the container begins")
			})
			c.kill(syscall.SIGTERM)
			c.wantExit(7)
			c.delete()
			want := []string{"stdout: the container begins", "stdout: [postStart] hello", "stdout: [postStart] an error", "stdout: [preStop] bye", "stdout: the container ends"}
			b.poll("the end of the logger", func() bool { return strings.Contains(readFile(b, filepath.Dir(log), "log"), "the container ends") })
			text := readFile(b, filepath.Dir(log), "log")
			if got := strings.ReplaceAll(text, "stderr: its error\n", ""); got != strings.Join(want, "\n")+"\n" || got == text {
				b.Errorf("the log has %q, want %q and its error", text, want)
			}
			if stolen := c.read("stolen"); stolen != "" {
				b.Errorf("the container has got %q", stolen)
			}
		}
	})
}

// docs/spec.md#output-log: with a terminal the lines are in its output, ended as a terminal in raw mode needs it. They do not
// pass through the container's terminal: what reads from it gets nothing.
func TestOutputOnATerminal(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		out := b.newStream()
		c := b.newContainer(with{keyPostStart: logged(waiting + "echo hello; echo there")},
			[]string{"/bin/sh", "-c", "stty raw -echo; echo the container begins; cat >/typed & touch ready; sleep 1000"},
			func(config *harness.ContainerConfig) { config.Terminal = true })
		c.createWith(out.path, true)
		out.follow()
		c.goOnce(c.startLater(), func() bool { return strings.Contains(out.read(), "the container begins") })
		b.poll("the lines", func() bool { return strings.Contains(out.read(), "there") })
		if got := out.read(); !strings.Contains(got, "the container begins") || !strings.HasSuffix(got, "[postStart] hello\r\n[postStart] there\r\n") {
			b.Errorf("the stream has %q", got)
		}
		if typed := c.read("typed"); typed != "" {
			b.Errorf("the container reads %q from its terminal", typed)
		}
		c.end(137)
	})
}

// docs/spec.md#output-log: where there is no stream, the output is in the status, which says why it is nowhere else.
func TestOutputThatGoesNowhere(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		for _, test := range []struct {
			stdout   string
			terminal bool
			says     string
		}{
			{"", false, "no stdout"},
			{"binary://" + filepath.Join(binDir(b), "testlogger") + "?FILE=" + filepath.Join(b.TempDir(), "log"), true, "has a terminal"},
		} {
			c := b.newContainer(with{keyPostStart: logged("echo hello; echo there")}, forever,
				func(config *harness.ContainerConfig) { config.Terminal = test.terminal })
			c.createWith(test.stdout, test.terminal)
			c.wantStart()
			run := c.runs()[0]
			if run.Result != "Succeeded" || run.Output != "hello\nthere\n" || run.LostLines != 2 || !strings.Contains(run.LogError, test.says) {
				b.Errorf("stdout %q: the status has %+v", test.stdout, run)
			}
			b.wantCtl([]string{"hello\nthere\n[2 lines are not in the container's log: ", test.says}, "logs", c.ID)
			c.end(137)
		}
	})
}

// docs/spec.md#output-log: it is off by default; the node's or the runtime's options turn it on, a handler has the last word.
func TestOutputByTheSettings(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		for _, test := range []struct{ options, handler, want string }{
			{"", shell("echo hello"), ""},
			{`HandlerOutput = "Status"`, shell("echo hello"), ""},
			{`HandlerOutput = "Log"`, shell("echo hello"), "[postStart] hello\n"},
			{`HandlerOutput = "Log"`, "{output: Status, " + shell("echo hello") + "}", ""},
			{`HandlerOutput = "Log"`, "{sleep: {seconds: 0}}", ""},
			{`HandlerOutput = "Status"`, logged("echo hello"), "[postStart] hello\n"},
		} {
			c := b.run(with{keyPostStart: test.handler}, forever, withOptions(b, test.options))
			if got, err := os.ReadFile(c.OutputFile); string(got) != test.want {
				b.Errorf("%+v: %q, %v", test, got, err)
			}
		}
		c := b.newContainer(with{keyPostStart: shell("true")}, forever, withOptions(b, `HandlerOutput = "log"`))
		_, err := c.Create(b.Context())
		b.wantError(err, `HandlerOutput: "log" is neither "Status" nor "Log"`)
		c = b.newContainer(with{keyPreStop: "{output: Log, sleep: {seconds: 1}}"}, forever)
		_, err = c.Create(b.Context())
		b.wantError(err, keyPreStop, "preStop.output", "exec only")
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
	on(t, []target{pinned, crun}, func(b *bench) {
		const lines = 100_000
		p := b.newPod()
		out := b.newStream()
		c := b.newContainer(with{keyPostStart: logged(bulk(lines))},
			[]string{"/bin/sh", "-c", "i=0; while [ $i -lt 500 ]; do echo own $i; i=$((i+1)); done; touch written; sleep 1000"}, p.member)
		c.createWith(out.path, false)
		out.follow()
		c.wantStart()
		c.waitFor("written")
		run := c.runs()[0]
		c.end(137)
		if own := countBulk(b.T, strings.NewReader(out.end()), run.LostLines, lines); own != 500 {
			b.Errorf("%d of the container's own lines came, of 500", own)
		}
		p.wantUnharmed()
	})
}

// A client that does not read holds up nothing: neither the start, nor preStop, nor the stop, nor the container
// itself, nor its neighbours. It is told how much was dropped.
func TestOutputThatNobodyReads(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		const lines = 100_000
		p := b.newPod()
		out := b.newStream()              // not followed
		line := strings.Repeat("y", 4000) // too long for what is left of a page of the FIFO, once it has a line of postStart's
		c := b.newContainer(with{keyLifecycle: "{postStart: " + logged(bulk(lines)) + ", preStop: " + logged("echo "+line+"; touch /stopped") + "}"}, obedient, p.member)
		c.createWith(out.path, false)
		_, took, err := c.Start(b.Context())
		if err != nil || took > 15*time.Second {
			b.Fatalf("the start took %s, %v", took, err)
		}
		c.waitFor("ready")
		run := c.runs()[0]
		if run.LostLines == 0 || !strings.Contains(run.LogError, "not read fast enough") {
			b.Errorf("the status has %+v", run)
		}
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		if !c.exists("stopped") {
			b.Error("preStop has not run")
		}
		if last := c.runs()[1]; last.LostLines != 1 {
			b.Errorf("of preStop, the status has %+v", last)
		}
		out.follow() // now the client reads, and what it finds are whole lines
		c.delete()
		countBulk(b.T, strings.NewReader(out.end()), run.LostLines, lines)
		b.poll("the warning", func() bool {
			return strings.Contains(b.daemon.Log()[b.logged:], "lines of a handler's output are missing in the container's log")
		})
		p.wantUnharmed()
	})
}

// A client that goes takes nothing with it.
func TestOutputWhoseReaderGoes(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		out := b.newStream()
		c := b.newContainer(with{keyLifecycle: "{postStart: " + logged("echo hello; "+waiting+"echo there") + ", preStop: " + logged("echo bye; touch /stopped") + "}"}, obedient)
		c.createWith(out.path, false)
		result := c.startLater()
		c.waitFor("begun")
		if err := out.file.Close(); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(out.path); err != nil {
			b.Fatal(err)
		}
		c.touch("go")
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		for _, run := range c.runs() {
			if run.Result != "Succeeded" {
				b.Errorf("the status has %+v", run)
			}
		}
		if !c.exists("stopped") {
			b.Error("preStop has not run")
		}
	})
}

// docs/spec.md#log: a handler's output is nowhere in the shim's log above debug level, wherever it goes.
func TestOutputIsNotInTheShimsLog(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c := b.run(with{keyLifecycle: "{postStart: " + logged("echo pass''word; env") + ", preStop: " + logged("echo pass''word; exit 3") + "}"}, obedient,
			func(config *harness.ContainerConfig) { config.Env = []string{"TOKEN=pass1word"} })
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		c.delete()
		b.poll("the ends in the log", func() bool { return strings.Count(b.daemon.Log()[b.logged:], `msg="handler ended"`) == 2 })
		for line := range strings.Lines(b.daemon.Log()[b.logged:]) {
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
	on(t, targets, func(b *bench) {
		c := b.run(with{keyLifecycle: "{preStop: {sleep: {seconds: 0}}, terminationGracePeriodSeconds: 20}"}, obedient)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		c.delete()
		want := [][]string{
			{"event=KillRequested", "from=Running", "state=PreStopping", `effects="Answer, RunHandler preStop"`, `why="a stop signal waits for preStop"`, "owner=terminationGracePeriodSeconds", "signal=15"},
			{"event=HandlerEnded", "from=PreStopping", "state=Stopping", `effects="SendSignal 15"`, "result=Succeeded", `why="preStop has ended, however it did"`},
			{"event=ContainerExited", "from=Stopping", "state=Exited"},
			{"event=DeleteReturned", "from=Exited", "state=Deleted", `why="it is gone"`},
		}
		b.poll("the lines", func() bool {
			for _, words := range want {
				if !b.logs(append(words, "msg=lifecycle", "level=debug", "id="+c.ID, "namespace="+b.client.Namespace)) {
					return false
				}
			}
			return true
		})
	})
}

// logs tells whether a line of the shim's log has all these words.
func (b *bench) logs(words []string) bool {
	for line := range strings.Lines(b.daemon.Log()[b.logged:]) {
		missing := false
		for _, word := range words {
			missing = missing || !strings.Contains(line, word)
		}
		if !missing {
			return true
		}
	}
	return false
}

// criLine is a line of a container's log as the kubelet reads it.
var criLine = regexp.MustCompile(`^\S+ (stdout|stderr) ([FP]) (.*)$`)

// criLog returns the lines of a container's log, without their times.
func criLog(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := ""
	for line := range strings.Lines(string(text)) {
		match := criLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if match == nil {
			t.Fatalf("%s has the line %q", path, line)
		}
		lines += match[1] + " " + match[2] + " " + match[3] + "\n"
	}
	return lines
}

// docs/spec.md#output-log: what `kubectl logs` shows.
func TestCRIOutputInTheLog(t *testing.T) {
	for name, terminal := range map[string]bool{"plain": false, "terminal": true} {
		t.Run(name, func(t *testing.T) {
			b := onCRI(t)
			dir := b.TempDir()
			pod := b.pod(with{keyLifecycle: "{postStart: " + logged(waiting+"echo hello; echo an error >&2") + ", preStop: " + logged("echo bye") + "}"},
				func(config *harness.PodConfig) { config.LogDirectory = dir })
			c := b.create(pod, says, func(config *harness.PodContainerConfig) {
				config.LogPath, config.Terminal = "app.log", terminal
			})
			path := filepath.Join(dir, "app.log")
			start := c.startLater(b.Context())
			c.waitFor("ready")
			poll(t, "the container's line", func() bool { return strings.Contains(criLog(t, path), "the container begins") })
			c.touch("go")
			if r := answer(t, start); r.err != nil {
				t.Fatal(r.err)
			}
			c.stop(limit)
			c.wantExit(7)
			poll(t, "the last line", func() bool { return strings.Contains(criLog(t, path), "the container ends") })
			want := "" // the same: CRI takes a terminal's ends of lines away
			for _, line := range []string{"the container begins", "[postStart] hello", "[postStart] an error", "[preStop] bye", "the container ends"} {
				want += "stdout F " + line + "\n"
			}
			if got := criLog(t, path); got != want {
				t.Errorf("the log has %q, want %q", got, want)
			}
		})
	}
}

// A containerd that comes back reads the stream again: what a preStop prints meanwhile is in the log.
func TestCRIOutputAcrossARestart(t *testing.T) {
	b := onOwnCRI(t)
	dir := b.TempDir()
	pod := b.pod(with{keyLifecycle: "{preStop: " + logged("echo before; "+waiting+"echo after; touch printed; while [ ! -e end ]; do sleep 0.02; done; echo last") + "}"},
		func(config *harness.PodConfig) { config.LogDirectory = dir })
	c := b.create(pod, says, func(config *harness.PodContainerConfig) { config.LogPath = "app.log" })
	c.start()
	c.waitFor("ready")
	lost := c.stopLater(60 * time.Second)
	c.waitFor("begun")
	if err := b.daemon.Kill(); err != nil {
		b.Fatal(err)
	}
	<-lost
	c.touch("go")
	c.waitFor("printed") // with nobody there
	if err := b.daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	again := c.stopLater(60 * time.Second)
	c.touch("end")
	c.stopped(again)
	c.wantExit(7)
	path := filepath.Join(dir, "app.log")
	poll(b.T, "the last line", func() bool { return strings.Contains(criLog(b.T, path), "the container ends") })
	want := "stdout F the container begins\nstdout F [preStop] before\nstdout F [preStop] after\nstdout F [preStop] last\nstdout F the container ends\n"
	if got := criLog(b.T, path); got != want {
		b.Errorf("the log has %q, want %q", got, want)
	}
}
