package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// stopRow is a row of the page's table of stops.
type stopRow struct {
	need, grace string
	ignores     bool // the process ignores SIGTERM
	command     []string
	signals     []string // as the page has them: "SIGTERM after 2 s"
}

// docker's timer against preStop and the shim's own, row by row of docs/use/ctr-nerdctl-docker.md.
func TestStop(t *testing.T) {
	for _, row := range stopRows(t) {
		name := fmt.Sprintf("%s needed, grace %s, ignores %v, %s", row.need, row.grace, row.ignores, strings.Join(row.command[2:], " "))
		t.Run(name, func(t *testing.T) { row.test(newBench(t)) })
	}
}

func (row stopRow) test(b *bench) {
	s := spec{block: "preStop: {" + shell("sleep 1000") + "}\n"}
	if seconds, found := strings.CutSuffix(row.need, " s"); found {
		s.block = "preStop: {" + shell("sleep "+seconds) + "}\n"
	}
	if row.grace != "" {
		s.block += "terminationGracePeriodSeconds: " + row.grace
	}
	if row.ignores {
		s.args = stubborn
	}
	name := b.run("c", s)
	begin := time.Now()
	b.ok(append(row.command, name)...)
	end := time.Now()

	signals, status := "", "7"
	for _, signal := range row.signals {
		var what string
		var after float64 // seconds from the command to the signal
		if _, err := fmt.Sscanf(signal, "%s after %f s", &what, &after); err != nil {
			b.Fatalf("the page says %q: %v", signal, err)
		}
		at := end
		if what == "SIGTERM" {
			signals = "TERM\n"
			at = b.written("signals")
		} else {
			status = "137"
		}
		// The shim's SIGKILL comes a bit before the end of the grace period. 20 s is for a busy machine: a signal that comes too
		// late shows in that another has come first.
		if took := at.Sub(begin).Seconds(); took < after-0.5 || took > after+20 {
			b.Errorf("%s came after %v s, the page says %v", what, took, row.signals)
		}
	}
	b.wantInspect(name, ended, "exited "+status)
	b.wantRead("signals", signals)
}

// written is when a file was last written.
func (b *bench) written(file string) time.Time {
	b.Helper()
	info, err := os.Stat(filepath.Join(b.dir, file))
	if err != nil {
		b.Fatal(err)
	}
	return info.ModTime()
}

// stopRows reads the table.
func stopRows(t *testing.T) []stopRow {
	t.Helper()
	var rows []stopRow
	_, table, _ := strings.Cut(page(t), "| preStop needs |")
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 7 || strings.HasPrefix(cells[1], "--") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, stopRow{
			need: cells[1], grace: cells[2], ignores: cells[3] == "ignores SIGTERM",
			command: strings.Fields(strings.Trim(cells[4], "`")), signals: strings.Split(cells[5], ", "),
		})
	}
	if len(rows) < 8 {
		t.Fatalf("the page's table of stops has %d rows", len(rows))
	}
	return rows
}

// A preStop that fails delays no stop, docker run's own time counts, and docker stop says nothing of either.
func TestStopOtherwise(t *testing.T) {
	for name, c := range map[string]struct {
		spec                     spec
		signals, status, preStop string
	}{
		"preStop fails":           {spec{preStop: shell("exit 3")}, "TERM\n", "7", "Failed"},
		"docker run has the time": {spec{preStop: shell("sleep 1000"), flags: []string{"--stop-timeout", "1"}}, "", "137", "Aborted"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			name := b.run("c", c.spec)
			id := b.id(name)
			b.ok("docker", "stop", name)
			b.wantInspect(name, ended, "exited "+c.status)
			b.wantRead("signals", c.signals)
			b.wantResults(id, "preStop "+c.preStop)
		})
	}
}

// An image's stop signal that the block does not name starts no preStop.
func TestStopSignal(t *testing.T) {
	pre := shell("echo pre >> signals")
	for name, c := range map[string]struct {
		spec    spec
		signals string
		status  string
	}{
		"of the image":              {spec{image: harness.ImageBusyboxQuit, preStop: pre}, "QUIT\n", "8"},
		"of the image and block":    {spec{image: harness.ImageBusyboxQuit, block: "preStop: {" + pre + "}\nstopSignal: SIGQUIT"}, "pre\nQUIT\n", "8"},
		"of docker run":             {spec{flags: []string{"--stop-signal", "QUIT"}, preStop: pre}, "QUIT\n", "8"},
		"of docker run, back again": {spec{image: harness.ImageBusyboxQuit, flags: []string{"--stop-signal", "TERM"}, preStop: pre}, "pre\nTERM\n", "7"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			name := b.run("c", c.spec)
			b.ok("docker", "stop", "-t", "60", name)
			b.wantInspect(name, ended, "exited "+c.status)
			b.wantRead("signals", c.signals)
		})
	}
}

func TestKill(t *testing.T) {
	b := newBench(t)
	name := b.run("killed", spec{block: patiently(shell("echo pre >> signals; " + waiting))})
	b.ok("docker", "kill", "--signal", "HUP", name)
	b.poll("SIGHUP", func() bool { return b.read("signals") == "HUP\n" })

	b.ok("docker", "kill", "--signal", "TERM", name) // answered though preStop waits
	b.wantFile("begun", "preStop")
	b.wantInspect(name, "{{.State.Status}}", "running")
	b.ok("docker", "kill", "--signal", "TERM", name) // joined
	b.ok("docker", "kill", "--signal", "HUP", name)  // passes
	b.poll("SIGHUP", func() bool { return b.read("signals") == "HUP\npre\nHUP\n" })
	b.touch("go")
	b.wantEnded(name, "7")
	b.wantRead("signals", "HUP\npre\nHUP\nTERM\n")

	b.remove("begun", "go", "ready")
	b.ok("docker", "start", name)
	b.wantFile("ready", name)
	b.ok("docker", "kill", "--signal", "TERM", name)
	b.wantFile("begun", "preStop")
	b.ok("docker", "kill", name) // SIGKILL is never held back
	b.wantEnded(name, "137")
	b.wantRead("signals", "HUP\npre\nHUP\nTERM\npre\n")
}

// docker rm --force is SIGKILL: no preStop.
func TestForcedRemoval(t *testing.T) {
	b := newBench(t)
	name := b.run("removed", spec{preStop: shell("echo pre >> signals")})
	b.ok("docker", "rm", "--force", name)
	b.wantRead("signals", "")
}

// docker restart is a stop and a start.
func TestRestart(t *testing.T) {
	b := newBench(t)
	name := b.run("again", spec{postStart: shell("echo post >> signals"), preStop: shell("echo pre >> signals")})
	b.remove("ready")
	b.ok("docker", "restart", "-t", "60", name)
	b.wantFile("ready", name)
	b.wantRead("signals", "post\npre\nTERM\npost\n")
	b.wantInspect(name, "{{.State.Status}} {{.RestartCount}}", "running 0")
}

// A paused container runs no preStop: the signal passes, and docker resumes the container to deliver it.
func TestPausedContainer(t *testing.T) {
	b := newBench(t)
	name := b.run("paused", spec{preStop: shell("echo pre >> signals")})
	b.ok("docker", "pause", name)
	b.wantInspect(name, "{{.State.Status}}", "paused")
	b.ok("docker", "stop", "-t", "60", name)
	b.wantEnded(name, "7")
	b.wantRead("signals", "TERM\n")

	b.remove("ready")
	b.ok("docker", "start", name)
	b.wantFile("ready", name)
	b.ok("docker", "pause", name)
	b.ok("docker", "unpause", name)
	b.ok("docker", "stop", "-t", "60", name)
	b.wantRead("signals", "TERM\npre\nTERM\n")
}

// failing exits with 3, again and again, until the test says enough.
var failing = []string{"/bin/sh", "-c", `echo up >> lives; trap 'echo TERM >> signals; exit 7' TERM; touch ready
	while [ ! -e enough ]; do [ -e post ] && rm post && exit 3; sleep 0.05; done; rm enough; exit 0`}

// Each start of a restart policy runs postStart, before the container can fail again; none of its ends runs preStop.
func TestRestartOnFailure(t *testing.T) {
	b := newBench(t)
	name := b.run("unlucky", spec{
		flags: []string{"--restart", "on-failure:2"}, postStart: shell("echo post >> lives; touch post"),
		preStop: shell("echo pre >> signals"), args: failing,
	})
	b.poll("docker to give up", func() bool { return strings.HasPrefix(b.inspect(name, ended), "exited") })
	b.wantInspect(name, ended+" {{.RestartCount}}", "exited 3 2")
	if got := b.read("lives"); strings.Count(got, "up\n") != 3 || strings.Count(got, "post\n") != 3 {
		b.Errorf("three starts have written %q", got)
	}
	b.wantRead("signals", "")
}

// A container that completes is no stop, and docker stop ends the restarting, with preStop.
func TestRestartAlways(t *testing.T) {
	b := newBench(t)
	name := b.run("always", spec{
		flags: []string{"--restart", "always"}, postStart: shell("echo post >> lives"), preStop: shell("echo pre >> signals"), args: failing,
	})
	b.touch("enough") // it exits with 0
	b.poll("the second life", func() bool {
		return b.read("lives") == "up\npost\nup\npost\n" || b.read("lives") == "up\npost\npost\nup\n"
	})
	b.wantRead("signals", "")
	b.poll("docker to call it running", func() bool { return b.inspect(name, "{{.State.Status}} {{.RestartCount}}") == "running 1" })
	b.ok("docker", "stop", "-t", "60", name)
	b.wantInspect(name, ended+" {{.RestartCount}}", "exited 7 1")
	b.wantRead("signals", "pre\nTERM\n")
}

// docker does not repeat a start that fails, so a postStart that fails ends the restarting.
func TestRestartEndsWithAFailedPostStart(t *testing.T) {
	b := newBench(t)
	name := b.run("over", spec{
		flags: []string{"--restart", "always"}, postStart: shell("test ! -e unlucky || { echo no luck; exit 3; }"), args: failing,
	})
	b.touch("unlucky")
	b.touch("enough")
	b.poll("docker to give up", func() bool {
		return b.inspect(name, "{{.State.Status}} {{.State.Error}}") == "exited postStart handler failed: exit status 3: no luck"
	})
	b.remove("unlucky")
	b.ok("docker", "start", name)
	b.wantInspect(name, "{{.State.Status}} {{.State.Error}}", "running")
}
