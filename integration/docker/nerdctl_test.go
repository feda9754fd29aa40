package docker

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// nerdctl works in its own namespace, so it loads its own image.
func nerdctlBench(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	archive := b.dir + "/image.tar"
	b.ok("docker", "save", "--output", archive, harness.ImageBusybox)
	b.ok("nerdctl", "load", "--input", archive)
	b.remove("image.tar")
	return b
}

// nerdctl runs a container, which the test's end removes.
func (b *bench) nerdctl(name string, s spec) (string, []string) {
	b.Helper()
	name = b.name(name)
	b.names = b.names[:len(b.names)-1] // docker does not know it
	b.Cleanup(func() {
		b.touch("go")
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		out, err := b.docker.Run(ctx, nil, "nerdctl", "rm", "--force", name)
		if err != nil || out.Status != 0 && !strings.Contains(out.Stderr, "no such container") {
			b.Errorf("nerdctl rm: status %d, %v: %s", out.Status, err, out.Stderr)
		}
	})
	s.client, s.flags = "nerdctl", append([]string{"--detach", "--network", "none"}, s.flags...)
	return name, b.words(name, s)
}

func (b *bench) wantNerdctl(name, format, want string) {
	b.Helper()
	if got := strings.TrimSpace(b.ok("nerdctl", "inspect", "--format", format, name).Stdout); got != want {
		b.Errorf("nerdctl inspect says %q of %s, want %q", got, format, want)
	}
}

// Unlike docker's, nerdctl's inspect is answered during postStart. Its stop does nothing then, and its kill is refused: they look
// at the state.
func TestNerdctlHeldStart(t *testing.T) {
	b := nerdctlBench(t)
	name, words := b.nerdctl("held", spec{postStart: shell(waiting + "touch done"), preStop: shell("echo pre >> signals")})
	run := b.later(words...)
	b.wantFile("begun", "postStart")
	b.wantNerdctl(name, "{{.State.Status}}", "created")
	b.wantSaid(b.ok("nerdctl", "ps", "--all", "--filter", "name="+name).Stdout, "Created")
	b.ok("nerdctl", "stop", name)
	b.wantSaid(b.want(1, "nerdctl", "kill", "--signal", "TERM", name).Stderr, "container is not running")
	b.touch("go")
	b.answer(run, 0)
	b.wantFile("done", "postStart")
	b.wantNerdctl(name, "{{.State.Status}}", "running")
	b.wantFile("ready", name)
	b.wantRead("signals", "")
	b.wantSaid(b.ok("nerdctl", "ps", "--filter", "name="+name).Stdout, "Up")
	b.ok("nerdctl", "stop", "-t", "60", name)
	b.wantNerdctl(name, ended, "exited 7")
	b.wantRead("signals", "pre\nTERM\n")
}

func TestNerdctlFailedPostStart(t *testing.T) {
	b := nerdctlBench(t)
	name, words := b.nerdctl("failed", spec{postStart: shell("test -e lucky || { echo no luck; exit 3; }")})
	out := b.want(1, words...)
	b.wantSaid(out.Stderr, "postStart handler failed: exit status 3: no luck")
	b.wantNerdctl(name, ended, "exited 7")
	b.wantRead("signals", "TERM\n")
	b.touch("lucky")
	b.ok("nerdctl", "start", name)
	b.wantNerdctl(name, "{{.State.Status}}", "running")
}

func TestNerdctlStop(t *testing.T) {
	for name, c := range map[string]struct {
		spec            spec
		flags           []string
		signals, status string
		from            time.Duration // that it takes at least; a signal that comes too late shows in another's coming first
	}{
		"preStop is shorter": {
			spec: spec{preStop: shell("sleep 2")}, flags: []string{"-t", "60"},
			signals: "TERM\n", status: "7", from: 2 * time.Second,
		},
		"preStop is longer": {
			spec: spec{preStop: shell("sleep 1000")}, flags: []string{"-t", "2"},
			signals: "", status: "137", from: 2 * time.Second,
		},
		"both by default": {
			spec:    spec{preStop: shell("sleep 1000")},
			signals: "TERM\n", status: "7", from: 8 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := nerdctlBench(t)
			name, words := b.nerdctl("c", c.spec)
			b.ok(words...)
			b.wantFile("ready", name)
			took := b.ok(append(append([]string{"nerdctl", "stop"}, c.flags...), name)...).Took
			b.wantNerdctl(name, ended, "exited "+c.status)
			b.wantRead("signals", c.signals)
			if took < c.from {
				b.Errorf("nerdctl stop took %v, want at least %v", took, c.from)
			}
		})
	}
}

func TestNerdctlKillAndLogs(t *testing.T) {
	b := nerdctlBench(t)
	name, words := b.nerdctl("killed", spec{block: patiently(shell("echo pre >> signals; " + waiting))})
	b.ok(words...)
	b.wantFile("ready", name)
	b.ok("nerdctl", "kill", "--signal", "HUP", name)
	b.poll("SIGHUP", func() bool { return b.read("signals") == "HUP\n" })
	b.ok("nerdctl", "kill", "--signal", "TERM", name)
	b.wantFile("begun", "preStop")
	b.wantNerdctl(name, "{{.State.Status}}", "running")
	b.wantSaid(b.want(1, "nerdctl", "exec", name, "/bin/sh", "-c", "exit 4").Stderr, "exit code 4") // nerdctl's way
	b.touch("go")
	b.poll("the end", func() bool { return b.read("signals") == "HUP\npre\nTERM\n" })
	if got := strings.TrimSpace(b.ok("nerdctl", "wait", name).Stdout); got != "7" {
		b.Errorf("nerdctl wait says %q", got)
	}
	if got := b.ok("nerdctl", "logs", name).Stdout; got != "up\n" {
		b.Errorf("nerdctl logs are %q", got)
	}
}

// nerdctl's restart policies are containerd's: it looks at its containers every 10 s.
func TestNerdctlRestart(t *testing.T) {
	b := nerdctlBench(t)
	name, words := b.nerdctl("always", spec{
		flags: []string{"--restart", "always"}, postStart: shell("echo post >> lives"), preStop: shell("echo pre >> signals"), args: failing,
	})
	b.ok(words...)
	b.touch("enough") // it exits with 0
	b.poll("the second life", func() bool {
		return strings.Count(b.read("lives"), "post\n") == 2 && strings.Count(b.read("lives"), "up\n") == 2
	})
	b.wantRead("signals", "")
	b.poll("containerd to call it running", func() bool {
		return strings.TrimSpace(b.ok("nerdctl", "inspect", "--format", "{{.State.Status}}", name).Stdout) == "running"
	})
	b.ok("nerdctl", "stop", "-t", "60", name)
	b.wantNerdctl(name, "{{.State.ExitCode}}", "7") // it says restarting, but is not
	b.wantRead("signals", "pre\nTERM\n")
}
