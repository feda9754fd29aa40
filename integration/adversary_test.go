package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// A handler is the container's code, so it may do whatever that may. Here it does
// its worst, and the promises of docs/spec.md#promises hold all the same.

// promptly bounds a stop whose preStop has a limit of 1 s. It is well below the
// grace period of the hostile containers, at whose end a stop that hangs on its
// handler would go on by itself, and above what a busy machine needs.
var (
	hostileGrace = int(harness.Patience(60 * time.Second).Seconds())
	promptly     = harness.Patience(25 * time.Second)
)

// pod is a shim with a container that does nothing wrong, and nothing that its
// neighbours do may reach it.
type pod struct {
	b           *bench
	bystander   *container
	shim        harness.Process
	descriptors int
	memory      int
}

// newPod's containers are those that get its edit, member.
func (b *bench) newPod() *pod {
	b.Helper()
	p := &pod{b: b}
	p.bystander = b.run(with{keyPreStop: shell("touch /stopped")}, obedient, p.member)
	p.bystander.waitFor("ready")
	shims, err := b.daemon.Shims()
	if err != nil || len(shims) != 1 {
		b.Fatalf("shims %v, %v, want the pod's alone", shims, err)
	}
	p.shim = shims[0]
	p.descriptors, p.memory = p.look()
	return p
}

func (p *pod) member(config *harness.ContainerConfig) {
	annotations := maps.Clone(config.Annotations)
	annotations["io.containerd.runc.v2.group"] = "pod"
	config.Annotations = annotations
}

// look returns how many descriptors the shim has, and the most memory it ever had
// (proc_pid_status(5)), in KiB. Pidfds do not count: Go's own, of every runc that has
// ended, are closed at a garbage collection, under the stock shim too. Nor do eventfds:
// on cgroup v1 containerd's watcher of OOM events (pkg/oom/v1, process) keeps the one of a
// container whose memory cgroup is gone a moment before the others, which depends on the load.
func (p *pod) look() (descriptors, memory int) {
	p.b.Helper()
	open, err := p.shim.Descriptors()
	if err != nil {
		p.b.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.shim.PID))
	if err != nil {
		p.b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == "VmHWM:" {
			if memory, err = strconv.Atoi(fields[1]); err != nil {
				p.b.Fatal(err)
			}
		}
	}
	open = slices.DeleteFunc(open, func(link string) bool {
		return strings.HasSuffix(link, "[pidfd]") || strings.HasSuffix(link, "[eventfd]")
	})
	return len(open), memory
}

// wantUnharmed is called when the neighbours have been deleted.
func (p *pod) wantUnharmed() {
	p.b.Helper()
	const growth = 64 << 10 // KiB: a second of output that is kept would be ten times as much
	p.b.poll("the shim's descriptors to be closed", func() bool { now, _ := p.look(); return now <= p.descriptors })
	if _, memory := p.look(); memory > p.memory+growth {
		p.b.Errorf("the shim had %d KiB at most before, and has now had %d", p.memory, memory)
	}
	if status := p.b.exec(p.bystander, "bystander", "/bin/true"); status != 0 {
		p.b.Errorf("an exec in the bystander ended with %d", status)
	}
	p.bystander.kill(syscall.SIGTERM)
	p.bystander.wantExit(7)
	if !p.bystander.exists("stopped") {
		p.b.Error("the bystander's preStop has not run")
	}
}

// delete removes the task of a container that has exited.
func (c *container) delete() {
	c.b.Helper()
	if _, _, err := c.Delete(c.b.Context()); err != nil {
		c.b.Fatal(err)
	}
}

// wantEnd waits for the line of the shim's log that says how the handler ended.
func (c *container) wantEnd(handler string, parts ...string) {
	c.b.Helper()
	var found string
	c.b.poll("the end of "+handler+" of "+c.ID+" in the log", func() bool {
		for line := range strings.Lines(c.b.daemon.Log()[c.b.logged:]) {
			if strings.Contains(line, `msg="handler ended"`) && strings.Contains(line, "namespace="+c.b.client.Namespace+" ") &&
				strings.Contains(line, "handler="+handler+" ") && strings.Contains(line, "id="+c.ID+" ") {
				found = line
			}
		}
		return found != ""
	})
	for _, part := range parts {
		if !strings.Contains(found, part) {
			c.b.Errorf("%s does not end with %q: %s", handler, part, found)
		}
	}
}

// limited lets the container have that many processes and threads.
func limited(pids int64) func(*harness.ContainerConfig) {
	return edited(func(spec *specs.Spec) { spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids} })
}

// edited adds to what the configuration's Edit does.
func edited(edit func(*specs.Spec)) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) {
		before := config.Edit
		config.Edit = func(spec *specs.Spec) {
			if before != nil {
				before(spec)
			}
			edit(spec)
		}
	}
}

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
func hostileBlock(script string) with {
	handler := "timeoutSeconds: 1, " + shell(script)
	return with{keyLifecycle: fmt.Sprintf("{postStart: {failurePolicy: Ignore, %s}, preStop: {%s}, terminationGracePeriodSeconds: %d}", handler, handler, hostileGrace)}
}

// docs/spec.md#forced-end, docs/spec.md#stop-failure: a handler that will not end is ended at its limit, whatever it does
// meanwhile and whatever the others of its pod do: a start goes on, a stop's signal is
// sent. All of them at once, so that they are in each other's way as much as they can.
func TestHostileHandlers(t *testing.T) {
	onNamespaces(t, []target{pinned, crun}, func(b *bench, edit func(*harness.ContainerConfig)) {
		p := b.newPod()
		members := map[string]*container{}
		starts := map[string]<-chan started{}
		for name, script := range hostile {
			members[name], starts[name] = b.runLater(hostileBlock(script), obedient, p.member, edit)
		}
		for name, c := range members {
			if r := b.result(starts[name]); r.err != nil {
				b.Errorf("%s: start: %v", name, r.err)
			}
			c.wantEnd("postStart", "result=TimedOut")
			c.waitFor("ready")
		}
		began := time.Now()
		for _, c := range members {
			c.kill(syscall.SIGTERM)
		}
		for name, c := range members {
			c.wantStopped(name, began)
			c.wantEnd("preStop", "result=TimedOut")
			c.delete()
		}
		p.wantUnharmed()
	})
}

// wantStopped waits for the exit that the stop signal leads to.
func (c *container) wantStopped(name string, began time.Time) {
	c.b.Helper()
	c.wantExit(7)
	if took := time.Since(began); took > promptly {
		c.b.Errorf("%s: stopped after %s", name, took)
	}
}

// bomb forks until it may not, and goes on trying: `command` keeps the shell alive
// where it cannot fork. sessions does it out of the reach of a forced end.
const (
	bomb     = `bomb() { while :; do command eval "bomb &"; done; }; bomb 2>/dev/null`
	sessions = `echo 'while :; do command eval "setsid /bin/sh /bomb &"; done 2>/dev/null' > /bomb; /bin/sh /bomb`
)

// A fork bomb is held by the container's own limit and by the handler's. What has left
// its group is the container's (docs/spec.md#forced-end), and then there is no process left for preStop. A container that
// could not fork any more would end by itself.
func TestForkBomb(t *testing.T) {
	onNamespaces(t, []target{pinned}, func(b *bench, edit func(*harness.ContainerConfig)) {
		p := b.newPod()
		for name, script := range map[string]string{"in its group": bomb, "of sessions": sessions} {
			c := b.run(hostileBlock(onceReady+script), obedient, p.member, limited(16), edit)
			c.waitFor("ready")
			c.wantEnd("postStart", "result=TimedOut")
			began := time.Now()
			c.kill(syscall.SIGTERM)
			c.wantStopped(name, began)
			c.wantEnd("preStop")
			c.delete()
		}
		p.wantUnharmed()
	})
}

// onNamespaces runs the test in a container's own pid namespace, and in the host's,
// where the shim is the parent of what a handler leaves.
func onNamespaces(t *testing.T, private []target, test func(*bench, func(*harness.ContainerConfig))) {
	t.Run("private", func(t *testing.T) {
		on(t, private, func(b *bench) { test(b, func(*harness.ContainerConfig) {}) })
	})
	t.Run("host", func(t *testing.T) {
		on(t, []target{pinned}, func(b *bench) { test(b, hostPID) })
	})
}

// docs/spec.md#output: what is shown of a handler's output is its end, in clean UTF-8, however much
// of whatever it was.
func TestHostileOutput(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		p := b.newPod()
		members := map[string]*container{}
		starts := map[string]<-chan started{}
		enough := harness.Patience(time.Second) // for all of them to write something
		for name, script := range map[string]string{
			"lines":       `yes`,
			"one line":    `tr '\0' x < /dev/zero`,
			"huge writes": `dd if=/dev/zero bs=16M`,
			"garbage":     `cat /dev/urandom`,
			"escapes":     `yes "$(printf '\033[2J\033]0;owned\007\302\233\177\r\b')"`,
			"half a rune": `yes "$(printf '\360\237\222')"`,
		} {
			members[name], starts[name] = b.runLater(with{keyPostStart: fmt.Sprintf("{timeoutSeconds: %d, %s}", enough/time.Second, shell(script))}, obedient, p.member)
		}
		for name, c := range members {
			err := b.result(starts[name]).err
			b.wantError(err, fmt.Sprintf("postStart handler failed: timed out after %d", enough/time.Second), "s: [", " bytes dropped] ")
			wantClean(b, name, err.Error())
			c.delete()
		}
		p.wantUnharmed()
	})
}

// wantClean looks for what must not reach a terminal, or a log.
func wantClean(b *bench, name, text string) {
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

// docs/spec.md#exec: the exit status alone tells success; a handler that has closed its stdio is
// waited for like any other.
func TestHandlerClosesItsStdio(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		for script, want := range map[string]string{"exit 0": "", "exit 3": "exit status 3"} {
			c, result := b.runLater(with{keyPostStart: shell("exec 0<&- 1>&- 2>&-; " + waiting + script)}, obedient)
			c.waitFor("begun")
			select {
			case r := <-result:
				b.Fatalf("the start is answered while the handler runs: %v", r.err)
			default:
			}
			c.touch("go")
			r := b.result(result)
			if want != "" {
				b.wantError(r.err, want)
			} else if r.err != nil {
				b.Error(r.err)
			}
		}
	})
}

// docs/spec.md#forced-end: a daemon that a handler leaves belongs to the container, and goes with it,
// also where the container exits by itself and the pid namespace is the host's.
func TestHandlerLeavesADaemon(t *testing.T) {
	onNamespaces(t, []target{pinned, crun}, func(b *bench, edit func(*harness.ContainerConfig)) {
		script := `setsid sh -c "trap '' TERM HUP INT; setsid sleep 1002 &" >/dev/null 2>&1`
		c := b.run(with{keyPostStart: shell(script)}, []string{"/bin/sh", "-c", "while [ ! -e /leave ]; do sleep 0.02; done; exit 5"}, edit)
		b.poll("the daemon", func() bool { return b.sleepers(c) == "1002" })
		c.touch("leave")
		c.wantExit(5)
		c.delete()
	})
}

// docs/spec.md#grace-kill: a container that is stopped by SIGSTOP cannot hear its signal. preStop runs,
// and the grace period ends it.
func TestStoppedContainer(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c := b.run(with{keyLifecycle: "{preStop: {" + shell("echo preStop >> /signals") + "}, terminationGracePeriodSeconds: 10}"}, obedient)
		c.waitFor("ready")
		c.kill(syscall.SIGSTOP)
		c.kill(syscall.SIGTERM)
		c.wantExit(137)
		if got := c.read("signals"); got != "preStop\n" {
			b.Errorf("signals %q, want preStop alone", got)
		}
	})
}

// A handler cannot kill the first process of its pid namespace, but everything else,
// itself included. Where the container lives on, it is stopped as after any failure.
func TestHandlerKills(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		p := b.newPod()
		for script, ends := range map[string]string{
			`kill -9 -1; exit 3`:    "exit status 3",
			`kill -9 1; exit 4`:     "exit status 4",
			`kill -9 $PPID; exit 5`: "exit status 137", // its parent is outside, so 0: its own group
			`kill -SEGV $$`:         "exit status 139",
		} {
			block := fmt.Sprintf("{postStart: {failurePolicy: Ignore, %s}, preStop: {%s}, terminationGracePeriodSeconds: %d}",
				shell("while [ ! -e /ready ]; do sleep 0.02; done; "+script), shell(script), hostileGrace)
			c := b.run(with{keyLifecycle: block}, []string{"/bin/sh", "-c", `trap 'exit 7' TERM; touch /ready; while :; do sleep 0.1; done`}, p.member)
			c.wantEnd("postStart", "result=Failed", ends)
			began := time.Now()
			c.kill(syscall.SIGTERM)
			c.wantStopped(script, began)
			c.wantEnd("preStop", "result=Failed", ends)
			c.delete()
		}
		p.wantUnharmed()
	})
}

// docs/spec.md#stop-exit: also where it is the handler that
// ends it, in whatever way.
func TestHandlerEndsTheContainer(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c := b.run(with{keyPreStop: shell("kill -TERM 1; kill -9 -1; sleep 1000")}, obedient)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		c.wantEnd("preStop", "result=Aborted", "container exited")
		if got := c.read("signals"); got != "TERM\n" {
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
			on(t, []target{pinned}, func(b *bench) {
				command := append([]string{"/bin/sh", "-c", `printf '%s\0' "$@" > /words`, "sh"}, words...)
				c := b.run(with{keyPostStart: "exec: {command: [" + quoted(b, command) + "]}"}, forever)
				if got, want := c.read("words"), strings.Join(words, "\x00")+"\x00"; got != want {
					b.Errorf("%d bytes of words reached the handler, and not these %d: %.100q, want %.100q", len(got), len(want), got, want)
				}
				if c.exists("owned") {
					b.Error("a word was taken for the shell's")
				}
			})
		})
	}
}

// quoted is a list of words in YAML, which wants every control character escaped.
func quoted(b *bench, words []string) string {
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
// it leaves to them, a handler that cannot start fails in words, and the stop goes on.
func TestNoProcessesLeft(t *testing.T) {
	const most = 10
	on(t, []target{pinned}, func(b *bench) {
		p := b.newPod()
		for free := range int64(most + 1) {
			block := fmt.Sprintf("{preStop: {%s}, terminationGracePeriodSeconds: %d}", shell("touch /stopped"), hostileGrace)
			args := []string{"/bin/sh", "-c", `trap 'exit 7' TERM; i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; : > /ready; while :; do wait; done`}
			c := b.run(with{keyLifecycle: block}, args, p.member, limited(21+free))
			c.waitFor("ready")
			began := time.Now()
			c.kill(syscall.SIGTERM)
			c.wantStopped(fmt.Sprintf("%d free", free), began)
			switch {
			case c.exists("stopped"):
				c.wantEnd("preStop", "result=Succeeded")
			case free == most:
				b.Error("a handler does not start with 10 free")
			default:
				c.wantEnd("preStop", "result=Failed", "cannot start: ")
			}
			c.delete()
		}
		p.wantUnharmed()
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
	on(t, []target{pinned}, func(b *bench) {
		p := b.newPod()
		root := filepath.Join(b.TempDir(), "root")
		mountTmpfs(b, root, "8m")
		if err := harness.NewRootFS(root); err != nil {
			b.Fatal(err)
		}
		c, result := b.runLater(with{keyLifecycle: "{postStart: {" + shell("cat /dev/zero > /full") + "}, preStop: {" + shell("rm /full; echo preStop > /signals") + "}}"}, obedient,
			p.member, func(config *harness.ContainerConfig) { config.RootFS = root })
		b.wantError(b.result(result).err, "postStart handler failed: exit status 1", "No space left on device")
		if got := c.read("signals"); !strings.HasPrefix(got, "preStop\n") {
			b.Errorf("signals %q, want preStop first", got)
		}
		c.delete()
		p.wantUnharmed()
	})
}
