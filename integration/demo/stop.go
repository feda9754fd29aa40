package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
)

// stopIsDelayed stops nginx while it is answering a request, and sees it finish both.
func (d *demo) stopIsDelayed(ctx context.Context) error {
	d.out.chapter("The stop: preStop first, and the request in flight is served to its end")
	var answer *download
	err := d.step("a slow request is in flight", func() (_ string, err error) {
		seconds := d.holdSeconds + 1
		answer, err = startDownload(ctx, d.init, fmt.Sprintf("%s?rate=%d", image.DrainPath, image.DrainSize/seconds))
		return fmt.Sprintf("%d KiB in about %ds", image.DrainSize>>10, seconds), err
	})
	if err != nil {
		return err
	}
	killed := time.Now()
	if err := d.step("the kill returned at once", func() (string, error) { return "", d.kill(ctx, killed) }); err != nil {
		return err
	}
	if err := d.step("preStop runs", func() (string, error) { return "", d.seeProcess(ctx, "sh -c nginx -s quit") }); err != nil {
		return err
	}
	if err := d.step("its task is still RUNNING", func() (string, error) { return "", d.seeStatus(ctx, "RUNNING") }); err != nil {
		return err
	}
	if err := d.step("the request was served to its end", func() (string, error) { return seeWhole(ctx, answer) }); err != nil {
		return err
	}
	if err := d.step("nginx has exited", func() (string, error) { return d.seeExit(ctx, killed) }); err != nil {
		return err
	}
	if err := d.step("its task is STOPPED", func() (string, error) { return "", d.seeStatus(ctx, "STOPPED") }); err != nil {
		return err
	}
	if err := d.step("it was preStop's `nginx -s quit` that stopped it, and no other signal", d.seeWhoStopped); err != nil {
		return err
	}
	return d.step("the shim's log says how the handlers ended", func() (string, error) { return "", d.seeShimLog(ctx) })
}

func (d *demo) kill(ctx context.Context, began time.Time) error {
	if _, err := d.ctr.shown(ctx, "task", "kill", "-s", "SIGQUIT", container); err != nil {
		return err
	}
	if took := time.Since(began); took > atOnce {
		return fmt.Errorf("it took %s: Kill must not wait for preStop", seconds(took))
	}
	return nil
}

func seeWhole(ctx context.Context, answer *download) (string, error) {
	body, err := answer.body.wait(ctx)
	if err == nil && len(body) != image.DrainSize {
		err = errors.New("it was cut short")
	}
	if err != nil {
		return "", fmt.Errorf("%d of %d bytes: %w", len(body), image.DrainSize, err)
	}
	return fmt.Sprintf("%d bytes", len(body)), nil
}

func (d *demo) seeExit(ctx context.Context, killed time.Time) (string, error) {
	exit, err := d.events.awaitTopic(ctx, patience, "/tasks/exit")
	if err != nil {
		return "", err
	}
	if exit.body.ExitStatus != 0 {
		return "", fmt.Errorf("with status %d, want 0: 137 would be SIGKILL", exit.body.ExitStatus)
	}
	return fmt.Sprintf("%s after the kill, with status 0", seconds(exit.at.Sub(killed))), nil
}

// quitLog is nginx's word on a SIGQUIT. It names the sender, unless that is outside of nginx's pid
// namespace, as the shim is and the preStop handler is not.
var quitLog = regexp.MustCompile(`signal 3 \(SIGQUIT\) received( from \d+)?, shutting down`)

func (d *demo) seeWhoStopped() (string, error) {
	log, err := os.ReadFile(d.nginxLog())
	if err != nil {
		return "", err
	}
	quits := quitLog.FindAllStringSubmatch(string(log), -1)
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "SIGQUIT") || strings.Contains(line, "gracefully") || strings.Contains(line, image.DrainPath) {
			d.out.output(line)
		}
	}
	if len(quits) != 1 || quits[0][1] == "" {
		return "", fmt.Errorf("want one SIGQUIT in nginx's log, from a process in the container, not %d: %q", len(quits), quits)
	}
	return "", nil
}

// seeShimLog looks for a line per handler in containerd's log, where the shim's goes. The container's exit
// has aborted preStop, which is how the page's example ends.
func (d *demo) seeShimLog(ctx context.Context) error {
	for _, want := range [][]string{
		{"handler=postStart", "result=Succeeded"},
		{"handler=preStop", "result=Aborted", `"container exited"`},
	} {
		var line string
		err := harness.Poll(ctx, patience, fmt.Sprintf("a line with %q in the log", want), func() (bool, error) {
			line = lineWith(d.daemon.Log(), want)
			return line != "", nil
		})
		if err != nil {
			return err
		}
		if _, text, ok := strings.Cut(line, " level="); ok { // our own times are on the left
			line = "level=" + text
		}
		d.out.output(line)
	}
	return nil
}

func lineWith(text string, words []string) string {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return line
		}
	}
	return ""
}
