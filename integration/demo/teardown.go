package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// tidyLimit bounds the search for leaks; the kernel takes a moment to remove cgroups and mounts.
const tidyLimit = 20 * time.Second

// remove deletes the container as a user does, and looks at the whole of its events.
func (d *demo) remove(ctx context.Context) error {
	d.out.chapter("Removed, and looked back at")
	if err := d.step("task, container and image removed", func() (string, error) { return "", d.removeAll(ctx) }); err != nil {
		return err
	}
	if err := d.step("ctr events: the right ones, in the right order", func() (string, error) { return "", d.seeEvents(ctx) }); err != nil {
		return err
	}
	return d.step("nothing left of it: no process, mount, cgroup or socket", func() (string, error) { return "", d.seeNothing(ctx) })
}

func (d *demo) removeAll(ctx context.Context) error {
	for _, args := range [][]string{
		{"task", "rm", container},
		{"container", "rm", container},
		{"image", "rm", imageRef},
	} {
		if _, err := d.ctr.shown(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) seeEvents(ctx context.Context) error {
	if _, err := d.events.awaitTopic(ctx, patience, "/tasks/delete"); err != nil {
		return err
	}
	events := d.events.ofContainer()
	for _, e := range events {
		d.out.output(fmt.Sprintf("%s%-15s pid %d", d.out.at(e.at), e.topic, e.body.Pid))
	}
	want := []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"}
	if got := topics(events); !slices.Equal(got, want) {
		return fmt.Errorf("want %v", want)
	}
	return nil
}

// seeNothing looks for what was not there before the container, and gives it a moment to go.
func (d *demo) seeNothing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tidyLimit)
	defer cancel()
	leaks, err := d.watch.Leaks(ctx, d.before)
	if err == nil && len(leaks) > 0 {
		err = fmt.Errorf("left: %s", strings.Join(leaks, "\n"))
	}
	return err
}

// takeDown ends whatever runs, after a failure too, and says what is left on the machine. It has time of
// its own: the story's may be up, or its user gone.
func (d *demo) takeDown() error {
	if d.daemon == nil {
		return nil
	}
	if d.events != nil {
		d.events.stop()
	}
	d.out.chapter("Taken down")
	return errors.Join(
		d.step("containerd stopped, its folder removed", func() (string, error) { return d.daemon.Dir, d.daemon.Close() }),
		d.step("nothing left on this machine", func() (string, error) {
			ctx := context.Background()
			return "", errors.Join(removeCgroups(ctx), d.seeNothing(ctx))
		}),
	)
}

// removeCgroups removes the cgroup of our namespace, which runc makes and leaves, and after a failure the
// container's in it. The kernel refuses for a moment after the last process has ended.
func removeCgroups(ctx context.Context) error {
	return harness.Poll(ctx, tidyLimit, "the cgroups of "+namespace+" to go", func() (bool, error) {
		left := 0
		for _, hierarchy := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} { // v1, v2
			for _, name := range []string{namespace + "/" + container, namespace} {
				dirs, _ := filepath.Glob(hierarchy + name) // the pattern is well-formed
				for _, dir := range dirs {
					if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
						left++
					}
				}
			}
		}
		return left == 0, nil
	})
}
