package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// startIsHeld starts the container and looks at it from all sides while postStart runs.
func (d *demo) startIsHeld(ctx context.Context) error {
	d.out.chapter("While postStart runs, nginx runs too, and the start is held")
	args := d.runArgs()
	d.out.command(d.ctr.line(args))
	d.run = inBackground(func() (string, error) { return d.ctr.quiet(ctx, args...) })
	held, cancel := d.untilAnswered(ctx)
	defer cancel()

	if err := d.step("nginx runs, and postStart beside it", func() (string, error) { return "", d.seePostStart(held) }); err != nil {
		return err
	}
	if err := d.step("its task is CREATED, not RUNNING", func() (string, error) { return "", d.seeStatus(held, "CREATED") }); err != nil {
		return err
	}
	return d.step("no /tasks/start in ctr events, and ctr run still waits", func() (string, error) {
		seen := topics(d.events.ofContainer())
		if len(seen) != 1 { // /tasks/create, which we have waited for
			return "", fmt.Errorf("seen: %v", seen)
		}
		return "only " + seen[0], context.Cause(held)
	})
}

func (d *demo) runArgs() []string {
	return []string{
		"run", "-d",
		"--runtime", runtime,
		"--runtime-config-path", d.optionsFile(),
		"--annotation", "lifecycle-shim.io/lifecycle=" + d.lifecycle(),
		"--log-uri", "file://" + d.nginxLog(),
		imageRef, container,
	}
}

// untilAnswered makes what looks at the held start fail, and say why, once `ctr run` has ended.
func (d *demo) untilAnswered(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-d.run.done:
			cancel(d.answeredEarly())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

func (d *demo) answeredEarly() error {
	took := seconds(d.run.took)
	switch {
	case d.run.err != nil:
		return d.run.err
	case d.run.took < d.hold():
		return fmt.Errorf("ctr run returned after %s, although postStart sleeps %v: the start was not held", took, d.hold())
	default:
		return fmt.Errorf("ctr run returned, after %s, before we had looked around: on a machine this slow use -hold 20", took)
	}
}

// seePostStart waits until the handler shows among the container's processes.
func (d *demo) seePostStart(ctx context.Context) error {
	created, err := d.events.awaitTopic(ctx, patience, "/tasks/create")
	if err != nil {
		return err
	}
	d.init = created.body.Pid
	if err := d.waitForNginx(ctx); err != nil { // until then the first process is runc's own
		return err
	}
	return d.seeProcess(ctx, fmt.Sprintf("sh -c sleep %d; echo", d.holdSeconds))
}

// startIsAnswered looks at what the end of postStart has set free.
func (d *demo) startIsAnswered(ctx context.Context) error {
	d.out.chapter("postStart has finished: the start is answered")
	if err := d.step("ctr run returned", func() (string, error) { return d.seeAnswer(ctx) }); err != nil {
		return err
	}
	if err := d.step("/tasks/start came with it", func() (string, error) { return d.seeStartEvent(ctx) }); err != nil {
		return err
	}
	if err := d.step("its task is RUNNING", func() (string, error) { return "", d.seeStatus(ctx, "RUNNING") }); err != nil {
		return err
	}
	if err := d.step("postStart has written its message", func() (string, error) {
		return "", d.seeOutput(ctx, message, "cat", messageFile)
	}); err != nil {
		return err
	}
	return d.step("nginx serves", func() (string, error) {
		return "", d.seeOutput(ctx, "<h1>nginx", "wget", "-q", "-O", "-", "http://127.0.0.1/")
	})
}

func (d *demo) seeAnswer(ctx context.Context) (string, error) {
	if _, err := d.run.wait(ctx); err != nil {
		return "", err
	}
	if d.run.took < d.hold() {
		return "", fmt.Errorf("after %s, although postStart sleeps %v", seconds(d.run.took), d.hold())
	}
	return fmt.Sprintf("after %s, of which the handler slept %v", seconds(d.run.took), d.hold()), nil
}

func (d *demo) seeStartEvent(ctx context.Context) (string, error) {
	created, err := d.events.awaitTopic(ctx, patience, "/tasks/create")
	if err != nil {
		return "", err
	}
	started, err := d.events.awaitTopic(ctx, patience, "/tasks/start")
	if err != nil {
		return "", err
	}
	if after := started.at.Sub(created.at); after < d.hold() {
		return "", fmt.Errorf("/tasks/start came %s after /tasks/create, while postStart slept", seconds(after))
	}
	if started.body.Pid != d.init {
		return "", fmt.Errorf("/tasks/start names pid %d, /tasks/create %d", started.body.Pid, d.init)
	}
	return fmt.Sprintf("%s after /tasks/create", seconds(started.at.Sub(created.at).Round(time.Millisecond))), nil
}

// seeStatus asks for the task's status as a user does.
func (d *demo) seeStatus(ctx context.Context, want string) error {
	out, err := d.ctr.shown(ctx, "task", "ls")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == container {
			if f[1] != fmt.Sprint(d.init) || f[2] != want {
				return fmt.Errorf("want pid %d and %s", d.init, want)
			}
			return nil
		}
	}
	return fmt.Errorf("no task %q listed", container)
}
