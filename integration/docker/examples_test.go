package docker

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// example returns a file of examples/, with this name for the container web: other tests use that name on the same servers.
func example(t *testing.T, file, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../examples", file))
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`\bweb\b`).ReplaceAllString(string(text), name)
}

// The script runs to its end: postStart's message is there, and the container stops and is removed.
func TestExampleDockerRun(t *testing.T) {
	b := newBench(t)
	b.loadNginx()
	name := b.name("web")
	out := b.ok("sh", "-c", example(t, "docker-run.sh", name))
	b.wantSaid(out.Stdout, "Hello from the postStart handler")
	if names := b.ok("docker", "ps", "--all", "--format", "{{.Names}}").Stdout; strings.Contains(names, name) {
		t.Errorf("docker still has the container: %s", names)
	}
}

// nerdctl compose starts and stops the project, with the handlers. The test's host has no CNI, so the service gets no network.
func TestExampleCompose(t *testing.T) {
	b := newBench(t)
	b.loadNginx()
	name := "examplecompose"
	file := filepath.Join(b.dir, "compose.yaml")
	text := strings.Replace(example(t, "compose.yaml", name), "    image: nginx\n", "    image: nginx\n    network_mode: none\n", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	compose := []string{"nerdctl", "compose", "--project-name", name, "--file", file}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if out, err := b.docker.Run(ctx, nil, append(compose, "down")...); err != nil || out.Status != 0 {
			t.Errorf("nerdctl compose down: %v: %s", err, out.Stderr)
		}
	})
	b.ok(append(compose, "up", "--detach")...)
	b.wantSaid(b.ok("nerdctl", "exec", name, "cat", "/usr/share/message").Stdout, "Hello from the postStart handler")
	b.ok(append(compose, "stop")...)
	if got := strings.TrimSpace(b.ok("nerdctl", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name).Stdout); got != "exited 0" {
		t.Errorf("nerdctl inspect reports %q, want exited 0", got)
	}
	// nerdctl has deleted the task, so lifecyclectl does not show it any more.
	id := strings.TrimSpace(b.ok("nerdctl", "inspect", "--format", "{{.Id}}", name).Stdout)
	if !strings.Contains(b.daemon.Log(), `msg="handler started" handler=preStop id=`+id) {
		t.Error("the shim's log has no preStop of the container")
	}
}
