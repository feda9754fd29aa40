package docker

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// dockerd goes and comes back, with live-restore, while containers are in each of their phases: handlers and containers go
// on, docker knows them again, and a stop works as ever. SIGTERM and SIGKILL are different: at SIGTERM dockerd waits for
// requests that it still answers.
func TestDaemonRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(dir string) (map[string]any, error) {
		settings, err := pageSettings(page(t), dir)
		if err == nil {
			settings["live-restore"] = true
		}
		return settings, err
	})
	var replaced []string
	t.Cleanup(func() {
		// dockerd forgets the mount of a start that it did not see the end of, and mounts once more.
		for _, id := range replaced {
			_ = unix.Unmount(filepath.Join(w.daemon.Dir, "docker/root/rootfs/overlayfs", id), unix.MNT_DETACH)
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	for name, stop := range map[string]func() error{"SIGTERM": w.docker.Terminate, "SIGKILL": w.docker.Kill} {
		t.Run(name, func(t *testing.T) {
			held, missed := startHeld(t, w, "held"), startHeld(t, w, "missed")
			replaced = append(replaced, missed.id)

			running := newBenchIn(t, w)
			// The page's default runtime, whose file gives preStop 1 s of 3.
			name := running.run("running", spec{runtime: "default", preStop: shell("echo pre >> signals; sleep 1000")})

			stopping := newBenchIn(t, w)
			stopped := stopping.run("stopping", spec{block: patiently(shell(waiting))})
			request := stopping.later("docker", "stop", "-t", "600", stopped)
			stopping.wantFile("begun", "preStop")

			if err := stop(); err != nil {
				t.Fatal(err)
			}
			for what, request := range map[string]<-chan string{"docker run": held.request, "another docker run": missed.request} {
				if answer := <-request; answer == "" {
					t.Errorf("%s has succeeded without a dockerd", what)
				}
			}
			if out := <-request; out.Status == 0 {
				t.Error("docker stop has succeeded without a dockerd")
			}
			missed.release() // docker does not learn that it has started
			if err := w.docker.Start(t.Context()); err != nil {
				t.Fatal(err)
			}

			held.goesOn()
			missed.isNotKnown()

			running.wantInspect(name, "{{.State.Status}}", "running")
			running.ok("docker", "exec", name, "true")
			running.ok("docker", "stop", "-t", "60", name)
			running.wantEnded(name, "7")
			running.wantRead("signals", "pre\nTERM\n")

			stopping.wantInspect(stopped, "{{.State.Status}}", "running")
			request = stopping.later("docker", "stop", "-t", "60", stopped) // joins the stop under way
			stopping.touch("go")
			stopping.answer(request, 0)
			stopping.wantEnded(stopped, "7")
			stopping.wantRead("signals", "TERM\n")
			for _, b := range []*bench{running, stopping} {
				if got := b.logs(b.names[0]); got != "up\n" {
					b.Errorf("docker logs of %s are %q", b.names[0], got)
				}
			}
		})
	}
}

// heldStart is a container whose postStart waits.
type heldStart struct {
	*bench
	name, id string
	request  <-chan string // why docker run has failed; empty: it has not
}

func startHeld(t *testing.T, w *world, name string) *heldStart {
	t.Helper()
	b := newBenchIn(t, w)
	h := &heldStart{bench: b, name: b.name(name)}
	run := b.later(b.words(h.name, spec{
		flags: []string{"--detach"}, postStart: shell(waiting + "echo post >> signals; touch done"), preStop: shell("echo pre >> signals"),
	})...)
	b.wantFile("begun", "postStart")
	b.wantFile("ready", h.name)
	h.id = strings.TrimSpace(b.ok("docker", "ps", "--all", "--quiet", "--no-trunc", "--filter", "name="+h.name).Stdout)
	answer := make(chan string, 1)
	h.request = answer
	go func() {
		out := <-run
		if out.Status != 0 {
			answer <- out.Stderr
		}
		close(answer)
	}()
	return h
}

func (h *heldStart) release() {
	h.Helper()
	h.touch("go")
	h.wantFile("done", "postStart")
	h.wantResults(h.id, "postStart Succeeded")
}

// goesOn: it is not started yet, for docker too, until postStart has ended.
func (h *heldStart) goesOn() {
	h.Helper()
	h.wantInspect(h.name, "{{.State.Status}}", "created")
	h.release()
	h.poll("docker to know that it runs", func() bool { return h.inspect(h.name, "{{.State.Status}}") == "running" })
	h.ok("docker", "exec", h.name, "true")
	h.ok("docker", "stop", "-t", "60", h.name)
	// docker does not know when it was started, so it never says exited.
	h.wantInspect(h.name, ended, "created 7")
	h.wantRead("signals", "post\npre\nTERM\n")
	if got := h.logs(h.name); got != "up\n" {
		h.Errorf("docker logs are %q", got)
	}
}

// isNotKnown: docker learns from containerd's event alone that a container of a start that it no longer knows has started, and has
// missed it. The container continues, and the next docker start replaces it.
func (h *heldStart) isNotKnown() {
	h.Helper()
	h.wantInspect(h.name, "{{.State.Status}}", "created")
	h.wantSaid(h.ok("lifecyclectl", "--namespace", "moby", "status", h.id).Stdout, "Running")
	h.remove("begun", "done")
	h.ok("docker", "start", h.name)
	h.wantInspect(h.name, "{{.State.Status}}", "running")
	h.wantRead("signals", "post\npost\n")
	h.ok("docker", "stop", "-t", "60", h.name)
	h.wantEnded(h.name, "7")
	h.wantRead("signals", "post\npost\npre\nTERM\n")
}

// Without live-restore dockerd stops its containers before it goes, with preStop, and starts those with a restart policy again,
// with postStart.
func TestDaemonStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(string) (map[string]any, error) { return nil, nil })
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	b := newBenchIn(t, w)
	name := b.run("stopped", spec{
		flags: []string{"--restart", "always"}, postStart: shell("echo post >> signals"), preStop: shell("echo pre >> signals"),
	})
	if err := w.docker.Terminate(); err != nil {
		t.Fatal(err)
	}
	b.wantRead("signals", "post\npre\nTERM\n")
	if err := w.docker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.poll("docker to start it again", func() bool { return b.inspect(name, "{{.State.Status}}") == "running" })
	b.wantRead("signals", "post\npre\nTERM\npost\n")
}
