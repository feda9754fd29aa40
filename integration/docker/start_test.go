package docker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The Kubernetes page's example, word for word, but for the signal: nginx's image names SIGQUIT.
func TestPageExample(t *testing.T) {
	b := newBench(t)
	b.loadNginx()
	name := b.name("web")
	b.ok("docker", "run", "--detach", "--name", name, "--runtime", Runtime, "--annotation", keyLifecycle+`=
postStart:
  exec:
    command: ["/bin/sh", "-c", "echo Hello from the postStart handler > /usr/share/message"]
preStop:
  exec:
    command: ["/bin/sh","-c","nginx -s quit; while killall -0 nginx; do sleep 1; done"]
stopSignal: SIGQUIT
`, "nginx")
	if got := b.ok("docker", "exec", name, "cat", "/usr/share/message").Stdout; got != "Hello from the postStart handler\n" {
		b.Errorf("postStart has written %q", got)
	}
	b.poll("nginx to serve", func() bool {
		return strings.Contains(b.command("docker", "exec", name, "wget", "-qO-", "http://127.0.0.1/").Stdout, "<h1>nginx")
	})
	id := b.id(name)
	b.ok("docker", "stop", name)
	b.wantInspect(name, ended, "exited 0")
	b.wantResults(id, "postStart Succeeded", "preStop Aborted") // nginx, which is pid 1, has ended: the usual good end
}

// While postStart runs, docker takes the container for one that is being started.
func TestHeldStart(t *testing.T) {
	b := newBench(t)
	name := b.name("held")
	run := b.later(b.words(name, spec{flags: []string{"--detach"}, postStart: shell(waiting + "touch done")})...)
	b.wantFile("begun", "postStart")
	b.wantFile("ready", "the entrypoint")

	if got := b.ok("docker", "ps", "--quiet", "--filter", "name="+name).Stdout; got != "" {
		b.Errorf("docker ps lists it: %q", got)
	}
	ps := b.ok("docker", "ps", "--all", "--filter", "name="+name, "--format", "{{.Status}}|{{.State}}|{{.ID}}").Stdout
	status, id, _ := strings.Cut(strings.TrimSpace(ps), "|created|")
	if status != "Created" || id == "" {
		b.Errorf("docker ps --all says %q, want Created", ps)
	}
	// dockerd holds the container's lock: what needs it is answered when the start is.
	inspect := b.later("docker", "inspect", "--format", "{{.State.Status}}", name)
	logs := b.later("docker", "logs", name)
	stop := b.later("docker", "stop", "-t", "60", name)
	says := b.ok("lifecyclectl", "--namespace", "moby", "status", id).Stdout
	b.wantSaid(says, "PostStart", "postStart exec", "running", "DefaultPostStartTimeout")
	for what, done := range map[string]<-chan harness.Output{"docker run": run, "docker inspect": inspect, "docker logs": logs, "docker stop": stop} {
		select {
		case out := <-done:
			b.Errorf("%s has been answered during postStart: %+v", what, out)
		default:
		}
	}
	b.touch("go")
	b.answer(run, 0)
	b.wantFile("done", "postStart")
	b.answer(stop, 0)
	b.answer(inspect, 0)
	b.answer(logs, 0)
	b.wantEnded(name, "7")
	b.wantRead("signals", "TERM\n")
}

// A start that hangs can be ended below docker, which waits for it.
func TestHungStartIsKilledThroughContainerd(t *testing.T) {
	b := newBench(t)
	name := b.name("hung")
	run := b.later(b.words(name, spec{flags: []string{"--detach"}, postStart: shell(waiting)})...)
	b.wantFile("begun", "postStart")
	id := strings.TrimSpace(b.ok("docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", "name="+name).Stdout)
	b.ok("ctr", "--namespace", "moby", "task", "kill", "--signal", "SIGTERM", id)
	out := b.answer(run, 125)
	b.wantSaid(out.Stderr, "postStart handler aborted", "stop requested")
	b.wantRead("signals", "TERM\n")
}

func TestFailedPostStart(t *testing.T) {
	b := newBench(t)
	name := b.name("failed")
	s := spec{flags: []string{"--detach"}, postStart: shell("test -e lucky || { echo no luck; exit 3; }"), preStop: shell("echo pre >> signals")}
	out := b.want(125, b.words(name, s)...)
	b.wantSaid(out.Stderr, "Error response from daemon: postStart handler failed: exit status 3: no luck")
	b.wantRead("signals", "pre\nTERM\n")
	// Never started, says docker, with the exit code that the container had.
	b.wantInspect(name, "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", "created 7 postStart handler failed: exit status 3: no luck")
	if got := b.logs(name); got != "up\n" {
		b.Errorf("docker logs are %q, want what the container has printed", got)
	}
	out = b.want(1, "docker", "start", name)
	b.wantSaid(out.Stderr, "postStart handler failed: exit status 3: no luck")
	b.touch("lucky")
	b.ok("docker", "start", name)
	b.wantInspect(name, "{{.State.Status}} {{.State.Error}}", "running")
}

// Docker's exit status for a failed start goes by the words of the error: a program that is not there is 127.
func TestFailedPostStartOfNoProgram(t *testing.T) {
	b := newBench(t)
	name := b.name("failed")
	out := b.want(127, b.words(name, spec{flags: []string{"--detach", "--rm"}, postStart: "exec: {command: [/nope]}"})...)
	b.wantSaid(out.Stderr, "postStart handler failed: cannot start", "/nope", "no such file or directory")
	b.poll("docker to remove it", func() bool { // --rm holds after a failed start too
		return b.ok("docker", "ps", "--all", "--quiet", "--filter", "name="+name).Stdout == ""
	})
}

func TestIgnoredFailureOfPostStart(t *testing.T) {
	b := newBench(t)
	name := b.run("ignored", spec{postStart: shell("exit 3") + "\nfailurePolicy: Ignore"})
	b.wantInspect(name, "{{.State.Status}}", "running")
	b.wantResults(b.id(name), "postStart Failed")
}

func TestRefusedAnnotation(t *testing.T) {
	b := newBench(t)
	name := b.name("refused")
	out := b.want(125, b.words(name, spec{postStart: "exec: {comand: [/bin/true]}"})...)
	b.wantSaid(out.Stderr, keyPostStart, "postStart.exec.comand is not a known field")
	b.wantInspect(name, "{{.State.Status}}", "created")
	if got := b.logs(name); got != "" {
		b.Errorf("it has run: %q", got)
	}
}

// A container without handlers is as under docker's own runtime, and may be removed when it ends.
func TestNoHandlers(t *testing.T) {
	b := newBench(t)
	out := b.want(5, b.words(b.name("plain"), spec{flags: []string{"--rm"}, args: []string{"/bin/sh", "-c", "echo hello; echo oops >&2; exit 5"}})...)
	if out.Stdout != "hello\n" || !strings.Contains(out.Stderr, "oops\n") {
		b.Errorf("it has printed %q and %q", out.Stdout, out.Stderr)
	}
}

// A container in the foreground that ends by itself has the handlers' output nowhere, and its own exit status; --rm removes it.
func TestForeground(t *testing.T) {
	b := newBench(t)
	name := b.name("front")
	out := b.want(3, b.words(name, spec{
		flags: []string{"--rm"}, postStart: shell("echo from the handler; touch go"), preStop: shell("touch stopped"),
		args: []string{"/bin/sh", "-c", "echo begin; while [ ! -e go ]; do sleep 0.05; done; echo end; exit 3"},
	})...)
	if out.Stdout != "begin\nend\n" {
		b.Errorf("it has printed %q", out.Stdout)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "stopped")); err == nil {
		b.Error("preStop of a completed container has run")
	}
	b.poll("docker to remove it", func() bool {
		return b.ok("docker", "ps", "--all", "--quiet", "--filter", "name="+name).Stdout == ""
	})
}

// A handler's output is in docker logs where the handler says so.
func TestOutputInLogs(t *testing.T) {
	b := newBench(t)
	name := b.run("talking", spec{postStart: shell("echo from the handler") + "\noutput: Log"})
	b.poll("the handler's line", func() bool { return strings.Contains(b.logs(name), "[postStart] from the handler\n") })
}

// With a terminal too: that is the container's, not the handlers'.
func TestTerminal(t *testing.T) {
	b := newBench(t)
	out := b.want(3, b.words(b.name("tty"), spec{
		flags: []string{"--rm", "--tty"}, postStart: shell("test -t 1 || touch go; echo from the handler"),
		args: []string{"/bin/sh", "-c", "test -t 1 && echo begin; while [ ! -e go ]; do sleep 0.05; done; exit 3"},
	})...)
	if out.Stdout != "begin\r\n" {
		b.Errorf("it has printed %q", out.Stdout)
	}
}

// ^C at a docker run in the foreground is a stop: SIGINT is passed on.
func TestInterruptedRun(t *testing.T) {
	b := newBench(t)
	words := b.words(b.name("front"), spec{
		postStart: shell("touch started"), preStop: shell("echo pre >> signals"),
		args: []string{"/bin/sh", "-c", "trap 'echo INT >> signals; exit 9' INT; touch ready; sleep 1000 & while :; do wait; done"},
	})
	// bash has the process id that the interrupt is for.
	script := append([]string{"bash", "-c", `"$@" & until [ -e ` + b.dir + `/ready -a -e ` + b.dir + `/started ]; do sleep 0.1; done
		until docker ps --quiet --filter name=` + b.names[0] + ` | grep -q .; do sleep 0.1; done; kill -INT $!; wait $!`, "bash"}, words...)
	b.want(9, script...)
	b.wantRead("signals", "pre\nINT\n")
}

// What docker takes away from a container, its handlers do not have either, and they run with the rest.
func TestHardenedContainer(t *testing.T) {
	b := newBench(t)
	if err := os.Chmod(b.dir, 0o777); err != nil {
		b.Fatal(err)
	}
	look := `{ id -u; id -g; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /etc/x 2>&1; ulimit -n; cat /proc/self/cgroup; } > `
	name := b.run("hard", spec{
		flags: []string{
			"--user", "1000:1000", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "64m",
			"--pids-limit", "20", "--ulimit", "nofile=123:123", "--cgroupns", "host",
		},
		postStart: shell(look + "handler; grep -q Seccomp:.2 handler"),
		args:      []string{"/bin/sh", "-c", look + "process; touch ready; sleep 1000"},
	})
	b.wantResults(b.id(name), "postStart Succeeded")
	got := b.read("handler")
	if want := b.read("process"); got != want {
		b.Errorf("the handler sees\n%s\nand the process\n%s", got, want)
	}
	b.wantSaid(got, "1000\n1000\n", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Read-only file system", "\n123\n")
}

// docker exec, logs and top are as ever, while preStop runs too. A handler is one of the container's processes.
func TestExecLogsTop(t *testing.T) {
	b := newBench(t)
	name := b.run("busy", spec{block: patiently(shell(waiting))})
	stop := b.later("docker", "stop", "-t", "600", name)
	b.wantFile("begun", "preStop")
	b.want(4, "docker", "exec", name, "/bin/sh", "-c", "exit 4")
	if got := b.ok("docker", "exec", name, "cat", "/proc/1/comm").Stdout; got != "sh\n" {
		b.Errorf("docker exec says %q", got)
	}
	if got := b.logs(name); got != "up\n" {
		b.Errorf("docker logs are %q", got)
	}
	b.wantSaid(b.ok("docker", "top", name).Stdout, "touch begun")
	b.wantInspect(name, "{{.State.Status}}", "running")
	b.wantSaid(b.ok("docker", "ps", "--filter", "name="+name, "--format", "{{.Status}}").Stdout, "Up ")
	b.wantSaid(b.ok("lifecyclectl", "--namespace", "moby", "status", b.id(name)).Stdout, "PreStop", "preStop exec", "running")
	b.touch("go")
	b.answer(stop, 0)
	b.wantEnded(name, "7")
}

// Health checks begin when the start has been acknowledged, and continue beside preStop.
func TestHealthCheck(t *testing.T) {
	b := newBench(t)
	name := b.name("checked")
	run := b.later(b.words(name, spec{
		flags: []string{"--detach", "--health-cmd", "echo check >> checks", "--health-interval", "100ms"},
		block: "postStart: {" + shell(waiting) + "}\n" +
			patiently(shell("n=$(wc -l < checks); while [ $(wc -l < checks) -le $n ]; do sleep 0.05; done; touch checked")),
	})...)
	b.wantFile("begun", "postStart")
	b.ok("docker", "ps") // the daemon has had its time
	if got := b.read("checks"); got != "" {
		b.Errorf("checked before the start was acknowledged: %q", got)
	}
	b.touch("go")
	b.answer(run, 0)
	b.poll("docker to find it healthy", func() bool { return b.inspect(name, "{{.State.Health.Status}}") == "healthy" })
	b.ok("docker", "stop", "-t", "600", name)
	b.wantEnded(name, "7")
	b.wantFile("checked", "preStop")
}

// runtimes are entries of daemon.json, as the page has them.
func runtimes(dir string) (map[string]any, error) {
	entries := map[string]any{}
	for name, text := range map[string]string{
		"hasty": `DefaultPostStartTimeout = "1s"`,
		"wrong": `DefaultPostStartTimeut = "1s"`,
	} {
		file := filepath.Join(dir, name+".toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		entries[name] = map[string]any{"runtimeType": Runtime, "options": map[string]any{"ConfigPath": file}}
	}
	return map[string]any{"runtimes": entries}, nil
}

// A runtime of daemon.json brings its options to the shim.
func TestRuntimeOptions(t *testing.T) {
	b := newBench(t)
	begin := time.Now()
	out := b.want(125, b.words(b.name("hasty"), spec{runtime: "hasty", flags: []string{"--detach"}, postStart: "sleep: {seconds: 100}"})...)
	b.wantSaid(out.Stderr, "postStart handler failed: timed out after 1s")
	if took := time.Since(begin); took < time.Second {
		b.Errorf("the start has failed after %v", took)
	}
	out = b.want(125, b.words(b.name("wrong"), spec{runtime: "wrong", flags: []string{"--detach"}})...)
	b.wantSaid(out.Stderr, `unknown setting "DefaultPostStartTimeut"`)
}

// What docker says where the shim is not installed.
func TestNoSuchShim(t *testing.T) {
	b := newBench(t)
	out := b.want(125, b.words(b.name("none"), spec{runtime: "io.containerd.nonesuch.v2"})...)
	b.wantSaid(out.Stderr, `binary not installed "containerd-shim-nonesuch-v2"`)
}
