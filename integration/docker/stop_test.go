package docker

import (
	"strings"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The table of docs/ctr-nerdctl-docker.md: docker's timer against preStop.
func TestStop(t *testing.T) {
	short, forever := shell("sleep 2; touch ended"), shell("sleep 1000")
	for name, c := range map[string]struct {
		spec  spec
		flags []string // of docker stop
		// What follows: the signals that the process got, its exit status, how long the stop took at least and at most. The upper
		// bounds tell apart what would come next, on a machine that is not slower than that.
		signals, status string
		from, to        time.Duration
		preStop         string // its result
	}{
		"preStop is shorter": {
			spec: spec{preStop: short}, flags: []string{"--time", "60"},
			signals: "TERM\n", status: "7", from: 2 * time.Second, to: 30 * time.Second, preStop: "Succeeded",
		},
		"preStop is longer": {
			spec: spec{preStop: forever}, flags: []string{"--time", "2"},
			signals: "", status: "137", from: 2 * time.Second, to: 8 * time.Second, preStop: "Aborted",
		},
		"at once": {
			spec: spec{preStop: forever}, flags: []string{"--time", "0"},
			signals: "", status: "137", from: 0, to: 8 * time.Second, preStop: "Aborted",
		},
		"of docker run": {
			spec:    spec{preStop: forever, flags: []string{"--stop-timeout", "1"}},
			signals: "", status: "137", from: time.Second, to: 8 * time.Second, preStop: "Aborted",
		},
		// docker's 10 s and the shim's: preStop has 8 s of them, and the process 2 s.
		"both by default": {
			spec:    spec{preStop: forever},
			signals: "TERM\n", status: "7", from: 8 * time.Second, to: 10 * time.Second, preStop: "Aborted",
		},
		// The shim is not told docker's time: without a grace period in the block, preStop has 8 s.
		"docker's is longer": {
			spec: spec{preStop: forever, args: stubborn}, flags: []string{"--time", "11"},
			signals: "TERM\n", status: "137", from: 11 * time.Second, to: 30 * time.Second, preStop: "Aborted",
		},
		"docker's is longer, the block has its own": {
			spec: spec{block: "preStop: {" + shell("sleep 9; touch ended") + "}\nterminationGracePeriodSeconds: 60"}, flags: []string{"--time", "60"},
			signals: "TERM\n", status: "7", from: 9 * time.Second, to: 30 * time.Second, preStop: "Succeeded",
		},
		"the block's is shorter": {
			spec: spec{block: "preStop: {" + forever + "}\nterminationGracePeriodSeconds: 4", args: stubborn}, flags: []string{"--time", "60"},
			signals: "TERM\n", status: "137", from: 3 * time.Second, to: 30 * time.Second, preStop: "Aborted",
		},
		"preStop fails": {
			spec: spec{preStop: shell("exit 3")}, flags: []string{"--time", "60"},
			signals: "TERM\n", status: "7", from: 0, to: 30 * time.Second, preStop: "Failed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			name := b.run("c", c.spec)
			id := b.id(name)
			took := b.ok(append(append([]string{"docker", "stop"}, c.flags...), name)...).Took
			b.wantInspect(name, ended, "exited "+c.status)
			b.wantRead("signals", c.signals)
			b.wantResults(id, "preStop "+c.preStop)
			if took < c.from || took > c.to {
				b.Errorf("docker stop took %v, want %v to %v", took, c.from, c.to)
			}
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
			b.ok("docker", "stop", "--time", "60", name)
			b.wantInspect(name, ended, "exited "+c.status)
			b.wantRead("signals", c.signals)
		})
	}
}

func TestKill(t *testing.T) {
	b := newBench(t)
	name := b.run("killed", spec{preStop: shell("echo pre >> signals; " + waiting)})
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
	b.ok("docker", "restart", "--time", "60", name)
	b.wantFile("ready", name)
	b.wantRead("signals", "post\npre\nTERM\npost\n")
	b.wantInspect(name, "{{.State.Status}} {{.RestartCount}}", "running 0")
}

// A paused container runs no preStop: the signal passes, and docker lets the container go on to get it.
func TestPausedContainer(t *testing.T) {
	b := newBench(t)
	name := b.run("paused", spec{preStop: shell("echo pre >> signals")})
	b.ok("docker", "pause", name)
	b.wantInspect(name, "{{.State.Status}}", "paused")
	b.ok("docker", "stop", "--time", "60", name)
	b.wantEnded(name, "7")
	b.wantRead("signals", "TERM\n")

	b.remove("ready")
	b.ok("docker", "start", name)
	b.wantFile("ready", name)
	b.ok("docker", "pause", name)
	b.ok("docker", "unpause", name)
	b.ok("docker", "stop", "--time", "60", name)
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
	b.ok("docker", "stop", "--time", "60", name)
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
