package docker

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// compose runs `docker compose` for one test.
type compose struct {
	*bench
	flags []string
}

// newCompose writes the test's compose.yaml: a service "app" with these further lines.
func newCompose(t *testing.T, lines ...string) compose {
	t.Helper()
	b := newBench(t)
	script := strings.ReplaceAll(obedient[2], "$", "$$") // compose replaces variables
	file := "services:\n  app:\n    image: " + harness.ImageBusybox + "\n    runtime: " + Runtime + "\n    network_mode: none\n    working_dir: /s\n" +
		"    volumes: ['" + b.dir + ":/s']\n    command: [/bin/sh, -c, " + strconv.Quote(script) + "]\n" + indent(strings.Join(lines, "\n"), "    ")
	path := filepath.Join(b.dir, "compose.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	c := compose{b, []string{"docker", "compose", "--progress", "plain", "--project-name", strings.ToLower(t.Name()), "--file", path}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if out, err := b.docker.Run(ctx, nil, c.words("down", "--timeout", "0")...); err != nil || out.Status != 0 {
			t.Errorf("compose down: %v: %s", err, out.Stderr)
		}
	})
	return c
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+by) + "\n"
}

// annotated is the service's block.
func annotated(block string) string {
	return "annotations:\n  lifecycle-shim.io/lifecycle: |\n" + indent(block, "    ")
}

func (c compose) words(words ...string) []string {
	return append(append([]string{}, c.flags...), words...)
}

// container is the id of the service's only one.
func (c compose) container() string {
	c.Helper()
	return strings.TrimSpace(c.ok(c.words("ps", "--all", "--quiet")...).Stdout)
}

// Handlers of a service run with each of its starts and stops, from any client.
func TestComposeHandlers(t *testing.T) {
	c := newCompose(t, annotated("postStart: {"+shell("echo post >> said")+"}\npreStop: {"+shell("echo pre >> said; exit 3")+"}"))
	c.ok(c.words("up", "--detach")...)
	c.wantRead("said", "post\n")
	c.wantFile("ready", "app")
	c.remove("ready")
	c.ok(c.words("restart")...)
	c.wantRead("said", "post\npre\npost\n")
	c.wantFile("ready", "app")
	id := c.container()
	c.ok("docker", "stop", id)
	c.wantRead("said", "post\npre\npost\npre\n")
	c.wantInspect(id, ended, "exited 7") // a preStop that fails keeps no container alive
	c.remove("ready")
	c.ok("docker", "start", id)
	c.wantFile("ready", "app")
	c.ok(c.words("down")...)
	c.wantRead("said", "post\npre\npost\npre\npost\npre\n")
}

// A postStart that fails stops the container, and `up` reports it.
func TestComposePostStartFails(t *testing.T) {
	c := newCompose(t, annotated("postStart: {"+shell("echo no licence; exit 3")+"}"))
	out := c.command(c.words("up", "--detach")...)
	if out.Status == 0 {
		t.Error("up succeeds")
	}
	c.wantSaid(out.Stderr, "postStart handler failed: exit status 3: no licence")
	c.wantInspect(c.container(), "{{.State.Running}}", "false")
}

// A service that depends on another one starts when the postStart of that has ended.
func TestComposeDependsOn(t *testing.T) {
	c := newCompose(t, annotated("postStart: {"+shell("sleep 1; echo app >> said")+"}")+"\ndepends_on: []")
	text, err := os.ReadFile(filepath.Join(c.dir, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	second := "  second:\n    image: " + harness.ImageBusybox + "\n    network_mode: none\n    working_dir: /s\n    volumes: ['" + c.dir + ":/s']\n" +
		"    command: [sh, -c, 'echo second >> said; touch second']\n    depends_on: [app]\n"
	if err := os.WriteFile(filepath.Join(c.dir, "compose.yaml"), append(text, second...), 0o600); err != nil {
		t.Fatal(err)
	}
	c.ok(c.words("up", "--detach")...)
	c.wantFile("second", "the second service")
	c.wantRead("said", "app\nsecond\n")
}

// The service's stop_grace_period is docker's own time for a stop, and must be in the block too.
func TestComposeStopGracePeriod(t *testing.T) {
	c := newCompose(t, "stop_grace_period: 60s", annotated("preStop: {"+shell("sleep 11; echo pre >> said")+"}\nterminationGracePeriodSeconds: 60"))
	c.ok(c.words("up", "--detach")...)
	c.wantFile("ready", "app")
	id := c.container()
	c.ok(c.words("stop")...)
	c.wantRead("said", "pre\n")
	c.wantRead("signals", "TERM\n")
	c.wantInspect(id, ended, "exited 7")
}

// What the page says of compose's own hooks is true, and they run under this runtime too.
func TestComposeOwnHooks(t *testing.T) {
	c := newCompose(t, "post_start:\n- command: [sh, -c, 'echo post >> said']", "pre_stop:\n- command: [sh, -c, 'echo pre >> said; [ ! -e wrong ]']")
	c.ok(c.words("up", "--detach")...)
	c.wantRead("said", "post\n")
	c.wantFile("ready", "app")
	id := c.container()
	c.touch("wrong")
	if out := c.command(c.words("stop")...); out.Status == 0 {
		t.Error("a pre_stop that fails does not fail the stop any more")
	}
	c.wantInspect(id, "{{.State.Running}}", "true")
	c.remove("wrong", "ready", "said")
	c.ok("docker", "restart", id)
	c.wantFile("ready", "app")
	c.wantRead("said", "") // it is not docker's
}

// A post_start that fails leaves the container running.
func TestComposeOwnPostStartFails(t *testing.T) {
	c := newCompose(t, "post_start:\n- command: [sh, -c, 'exit 3']")
	if out := c.command(c.words("up", "--detach")...); out.Status == 0 {
		t.Error("up succeeds")
	}
	c.wantInspect(c.container(), "{{.State.Running}}", "true")
}
