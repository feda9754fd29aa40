package attack

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// A handler is the container's code, so it may do anything that the container may. Here it does
// its worst, and the promises of docs/spec.md#promises hold all the same.

// promptly bounds a stop whose preStop has a limit of 1 s. It is well below the
// grace period of the hostile containers, at whose end a stop that hangs on its
// handler would continue by itself, and above what a busy machine needs.
var (
	hostileGrace = int(harness.Patience(60 * time.Second).Seconds())
	promptly     = harness.Patience(25 * time.Second)
)

// hostile are handlers that do not end by themselves. Their limit has to end them.
var hostile = map[string]string{
	"endless lines":                `yes`,
	"endless line":                 `tr '\0' x < /dev/zero`,
	"huge writes":                  `dd if=/dev/zero bs=16M`,
	"garbage":                      `cat /dev/urandom`,
	"deaf":                         `trap '' TERM INT HUP QUIT PIPE USR1 USR2 ALRM; while :; do sleep 1000; done`,
	"closed stdio":                 `exec 0<&- 1>&- 2>&-; while :; do sleep 1000; done`,
	"stopped":                      `kill -STOP $$`,
	"stopped with its whole group": `sleep 1000 & sleep 1000 & kill -STOP 0`,
	"left behind by its session":   `setsid sh -c "trap '' TERM HUP; while :; do sleep 1000; done" & sleep 1000`,
	"busy":                         `while :; do :; done`,
}

// hostileBlock has the script as both handlers, each with a limit of 1 s.
func hostileBlock(script string) bed.Annotations {
	handler := "timeoutSeconds: 1, " + bed.Shell(script)
	return bed.Annotations{bed.KeyLifecycle: fmt.Sprintf("{postStart: {failurePolicy: Ignore, %s}, preStop: {%s}, terminationGracePeriodSeconds: %d}", handler, handler, hostileGrace)}
}

// docs/spec.md#forced-end, docs/spec.md#stop-failure: a handler that will not end is ended at its limit, for anything it does
// meanwhile, and for anything that the others of its pod do: a start continues, a stop's signal is
// sent. All of them at once, so that they are in each other's way as much as they can.
func TestHostileHandlers(t *testing.T) {
	onNamespaces(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench, edit func(*harness.ContainerConfig)) {
		p := b.NewGroup()
		members := map[string]*bed.Container{}
		starts := map[string]<-chan bed.Answer{}
		for name, script := range hostile {
			members[name], starts[name] = b.StartLater(hostileBlock(script), bed.Obedient, p.Member, edit)
		}
		for name, c := range members {
			if r := b.Await(starts[name]); r.Err != nil {
				b.Errorf("%s: start: %v", name, r.Err)
			}
			c.WantEnd("postStart", "result=TimedOut")
			c.WaitFor("ready")
		}
		began := time.Now()
		for _, c := range members {
			c.Signal(syscall.SIGTERM)
		}
		for name, c := range members {
			wantStopped(c, name, began)
			c.WantEnd("preStop", "result=TimedOut")
			c.DeleteTask()
		}
		p.WantUnharmed()
	})
}

// wantStopped waits for the exit that the stop signal leads to.
func wantStopped(c *bed.Container, name string, began time.Time) {
	c.B.Helper()
	c.WantExit(7)
	if took := time.Since(began); took > promptly {
		c.B.Errorf("%s: stopped after %s", name, took)
	}
}

// bomb forks until it may not, and keeps trying: `command` keeps the shell alive
// where it cannot fork. sessions does it out of the reach of a forced end.
const (
	bomb     = `bomb() { while :; do command eval "bomb &"; done; }; bomb 2>/dev/null`
	sessions = `echo 'while :; do command eval "setsid /bin/sh /bomb &"; done 2>/dev/null' > /bomb; /bin/sh /bomb`
)

// A fork bomb is held by the container's own limit and by the handler's. What has left
// its group is the container's (docs/spec.md#forced-end), and then there is no process left for preStop. A container that
// could not fork any more would end by itself.
func TestForkBomb(t *testing.T) {
	onNamespaces(t, []bed.Target{bed.Pinned}, func(b *bed.Bench, edit func(*harness.ContainerConfig)) {
		p := b.NewGroup()
		for name, script := range map[string]string{"in its group": bomb, "of sessions": sessions} {
			c := b.Start(hostileBlock(bed.WaitForReady+script), bed.Obedient, p.Member, bed.LimitPids(16), edit)
			c.WaitFor("ready")
			c.WantEnd("postStart", "result=TimedOut")
			began := time.Now()
			c.Signal(syscall.SIGTERM)
			wantStopped(c, name, began)
			c.WantEnd("preStop")
			c.DeleteTask()
		}
		p.WantUnharmed()
	})
}

// onNamespaces runs the test in a container's own pid namespace, and in the host's,
// where the shim is the parent of what a handler leaves.
func onNamespaces(t *testing.T, private []bed.Target, test func(*bed.Bench, func(*harness.ContainerConfig))) {
	t.Run("private", func(t *testing.T) {
		bed.On(t, private, func(b *bed.Bench) { test(b, func(*harness.ContainerConfig) {}) })
	})
	t.Run("host", func(t *testing.T) {
		bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) { test(b, bed.HostPID) })
	})
}

// docs/spec.md#output: what is shown of a handler's output is its end, in clean UTF-8, however much
// of whatever it was.
func TestHostileOutput(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		p := b.NewGroup()
		members := map[string]*bed.Container{}
		starts := map[string]<-chan bed.Answer{}
		enough := harness.Patience(time.Second) // for all of them to write something
		for name, script := range map[string]string{
			"lines":       `yes`,
			"one line":    `tr '\0' x < /dev/zero`,
			"huge writes": `dd if=/dev/zero bs=16M`,
			"garbage":     `cat /dev/urandom`,
			"escapes":     `yes "$(printf '\033[2J\033]0;owned\007\302\233\177\r\b')"`,
			"half a rune": `yes "$(printf '\360\237\222')"`,
		} {
			members[name], starts[name] = b.StartLater(bed.Annotations{bed.KeyPostStart: fmt.Sprintf("{timeoutSeconds: %d, %s}", enough/time.Second, bed.Shell(script))}, bed.Obedient, p.Member)
		}
		for name, c := range members {
			err := b.Await(starts[name]).Err
			b.WantError(err, fmt.Sprintf("postStart handler failed: timed out after %d", enough/time.Second), "s: [", " bytes dropped] ")
			wantClean(b, name, err.Error())
			c.DeleteTask()
		}
		p.WantUnharmed()
	})
}

// wantClean looks for what must not reach a terminal, or a log.
func wantClean(b *bed.Bench, name, text string) {
	b.Helper()
	const shown = 4096*utf8.UTFMax + 500 // OutputLimit in bytes, each replaced by a rune at the worst
	if !utf8.ValidString(text) || len(text) > shown {
		b.Errorf("%s: the error has %d bytes, valid UTF-8 %v", name, len(text), utf8.ValidString(text))
	}
	for _, r := range text {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			b.Errorf("%s: the error has the control character %q", name, r)
			return
		}
	}
}

// docs/spec.md#exec: the exit status alone means success; a handler that has closed its stdio is
// waited for like any other.
func TestHandlerClosesItsStdio(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		for script, want := range map[string]string{"exit 0": "", "exit 3": "exit status 3"} {
			c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell("exec 0<&- 1>&- 2>&-; " + bed.WaitForGo + script)}, bed.Obedient)
			c.WaitFor("begun")
			select {
			case r := <-result:
				b.Fatalf("the start is answered while the handler runs: %v", r.Err)
			default:
			}
			c.Touch("go")
			r := b.Await(result)
			if want != "" {
				b.WantError(r.Err, want)
			} else if r.Err != nil {
				b.Error(r.Err)
			}
		}
	})
}

// docs/spec.md#forced-end: a daemon that a handler leaves belongs to the container, and goes with it,
// also where the container exits by itself and the pid namespace is the host's.
func TestHandlerLeavesADaemon(t *testing.T) {
	onNamespaces(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench, edit func(*harness.ContainerConfig)) {
		script := `setsid sh -c "trap '' TERM HUP INT; setsid sleep 1002 &" >/dev/null 2>&1`
		c := b.Start(bed.Annotations{bed.KeyPostStart: bed.Shell(script)}, []string{"/bin/sh", "-c", "while [ ! -e /leave ]; do sleep 0.02; done; exit 5"}, edit)
		b.Poll("the daemon", func() bool { return b.Sleepers(c) == "1002" })
		c.Touch("leave")
		c.WantExit(5)
		c.DeleteTask()
	})
}

// docs/spec.md#grace-kill: a container that is stopped by SIGSTOP cannot hear its signal. preStop runs,
// and the grace period ends it.
func TestStoppedContainer(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyLifecycle: "{preStop: {" + bed.Shell("echo preStop >> /signals") + "}, terminationGracePeriodSeconds: 10}"}, bed.Obedient)
		c.WaitFor("ready")
		c.Signal(syscall.SIGSTOP)
		c.Signal(syscall.SIGTERM)
		c.WantExit(137)
		if got := c.Read("signals"); got != "preStop\n" {
			b.Errorf("signals %q, want preStop alone", got)
		}
	})
}

// A handler cannot kill the first process of its pid namespace, but everything else,
// itself included. Where the container lives on, it is stopped as after any failure.
func TestHandlerKills(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		p := b.NewGroup()
		for script, ends := range map[string]string{
			`kill -9 -1; exit 3`:    "exit status 3",
			`kill -9 1; exit 4`:     "exit status 4",
			`kill -9 $PPID; exit 5`: "exit status 137", // its parent is outside, so 0: its own group
			`kill -SEGV $$`:         "exit status 139",
		} {
			block := fmt.Sprintf("{postStart: {failurePolicy: Ignore, %s}, preStop: {%s}, terminationGracePeriodSeconds: %d}",
				bed.Shell("while [ ! -e /ready ]; do sleep 0.02; done; "+script), bed.Shell(script), hostileGrace)
			c := b.Start(bed.Annotations{bed.KeyLifecycle: block}, []string{"/bin/sh", "-c", `trap 'exit 7' TERM; touch /ready; while :; do sleep 0.1; done`}, p.Member)
			c.WantEnd("postStart", "result=Failed", ends)
			began := time.Now()
			c.Signal(syscall.SIGTERM)
			wantStopped(c, script, began)
			c.WantEnd("preStop", "result=Failed", ends)
			c.DeleteTask()
		}
		p.WantUnharmed()
	})
}

// docs/spec.md#stop-exit: also where it is the handler that
// ends it, in any way.
func TestHandlerEndsTheContainer(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("kill -TERM 1; kill -9 -1; sleep 1000")}, bed.Obedient)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		c.WantEnd("preStop", "result=Aborted", "container exited")
		if got := c.Read("signals"); got != "TERM\n" {
			b.Errorf("signals %q, want the handler's TERM alone", got)
		}
	})
}

// docs/spec.md#limits, from the inside: as many words as are allowed, and in them every
// character that a word can have.
func TestHandlerWords(t *testing.T) {
	var characters strings.Builder
	for r := rune(1); r < 0x3000; r++ {
		characters.WriteRune(r)
	}
	for name, words := range map[string][]string{
		"4096 words":      strings.Fields(strings.Repeat("w ", 4096-4)),
		"every character": {characters.String(), "", "\U0001F4A9", "\t\n\r\x01\x7f\u0085\u2028\ufeff\ufffd"},
		"64 KiB":          {strings.Repeat("x", 65536-200)},
		"shell syntax":    {"$(touch /owned)", "`touch /owned`", "; touch /owned", "'", `"`, `\`, "*", "~", "-c"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
				command := append([]string{"/bin/sh", "-c", `printf '%s\0' "$@" > /words`, "sh"}, words...)
				c := b.Start(bed.Annotations{bed.KeyPostStart: "exec: {command: [" + quoted(b, command) + "]}"}, bed.Forever)
				if got, want := c.Read("words"), strings.Join(words, "\x00")+"\x00"; got != want {
					b.Errorf("%d bytes of words reached the handler, and not these %d: %.100q, want %.100q", len(got), len(want), got, want)
				}
				if c.Exists("owned") {
					b.Error("a word was taken for the shell's")
				}
			})
		})
	}
}

// quoted is a list of words in YAML, which wants every control character escaped.
func quoted(b *bed.Bench, words []string) string {
	b.Helper()
	var text strings.Builder
	for _, word := range words {
		value, err := json.Marshal(word)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range string(value) + "," {
			if unicode.IsControl(r) {
				fmt.Fprintf(&text, `\u%04x`, r)
			} else {
				text.WriteRune(r)
			}
		}
	}
	return text.String()
}

// The container's own limit of processes and threads holds for handlers. However many
// it leaves to them, a handler that cannot start fails with a message, and the stop continues.
func TestNoProcessesLeft(t *testing.T) {
	const most = 10
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		p := b.NewGroup()
		for free := range int64(most + 1) {
			block := fmt.Sprintf("{preStop: {%s}, terminationGracePeriodSeconds: %d}", bed.Shell("touch /stopped"), hostileGrace)
			args := []string{"/bin/sh", "-c", `trap 'exit 7' TERM; i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; : > /ready; while :; do wait; done`}
			c := b.Start(bed.Annotations{bed.KeyLifecycle: block}, args, p.Member, bed.LimitPids(21+free))
			c.WaitFor("ready")
			began := time.Now()
			c.Signal(syscall.SIGTERM)
			wantStopped(c, fmt.Sprintf("%d free", free), began)
			switch {
			case c.Exists("stopped"):
				c.WantEnd("preStop", "result=Succeeded")
			case free == most:
				b.Error("a handler does not start with 10 free")
			default:
				c.WantEnd("preStop", "result=Failed", "cannot start: ")
			}
			c.DeleteTask()
		}
		p.WantUnharmed()
	})
}

// mountTmpfs mounts a tmpfs of that size (tmpfs(5)) for as long as the test runs.
func mountTmpfs(t testing.TB, dir, size string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill writes until the disk is full.
func fill(t testing.TB, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for chunk := 1 << 16; chunk > 0; {
		if _, err := file.Write(make([]byte, chunk)); err != nil {
			chunk /= 2
		}
	}
}

// A handler that fills the disk of its container fails itself alone.
func TestHandlerFillsTheDisk(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		p := b.NewGroup()
		root := filepath.Join(b.TempDir(), "root")
		mountTmpfs(b, root, "8m")
		if err := harness.NewRootFS(root); err != nil {
			b.Fatal(err)
		}
		c, result := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell("cat /dev/zero > /full") + "}, preStop: {" + bed.Shell("rm /full; echo preStop > /signals") + "}}"}, bed.Obedient,
			p.Member, func(config *harness.ContainerConfig) { config.RootFS = root })
		b.WantError(b.Await(result).Err, "postStart handler failed: exit status 1", "No space left on device")
		if got := c.Read("signals"); !strings.HasPrefix(got, "preStop\n") {
			b.Errorf("signals %q, want preStop first", got)
		}
		c.DeleteTask()
		p.WantUnharmed()
	})
}
