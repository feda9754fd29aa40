package cri

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// criLine is a line of a container's log as the kubelet reads it.
var criLine = regexp.MustCompile(`^\S+ (stdout|stderr) ([FP]) (.*)$`)

// criLog returns the lines of a container's log, without their times.
func criLog(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := ""
	for line := range strings.Lines(string(text)) {
		match := criLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if match == nil {
			t.Fatalf("%s has the line %q", path, line)
		}
		lines += match[1] + " " + match[2] + " " + match[3] + "\n"
	}
	return lines
}

// docs/spec.md#output-log: what `kubectl logs` shows.
func TestCRIOutputInTheLog(t *testing.T) {
	for name, terminal := range map[string]bool{"plain": false, "terminal": true} {
		t.Run(name, func(t *testing.T) {
			b := bed.OnCRI(t)
			dir := b.TempDir()
			pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{postStart: " + bed.LogOutput(bed.WaitForGo+"echo hello; echo an error >&2") + ", preStop: " + bed.LogOutput("echo bye") + "}"},
				func(config *harness.PodConfig) { config.LogDirectory = dir })
			c := b.Create(pod, bed.Talking, func(config *harness.PodContainerConfig) {
				config.LogPath, config.Terminal = "app.log", terminal
			})
			path := filepath.Join(dir, "app.log")
			start := c.StartLater(b.Context())
			c.WaitFor("ready")
			bed.Poll(t, "the container's line", func() bool { return strings.Contains(criLog(t, path), "the container begins") })
			c.Touch("go")
			if r := bed.Await(t, start); r.Err != nil {
				t.Fatal(r.Err)
			}
			c.MustStop(bed.Limit)
			c.WantExit(7)
			bed.Poll(t, "the last line", func() bool { return strings.Contains(criLog(t, path), "the container ends") })
			want := "" // the same: CRI takes a terminal's ends of lines away
			for _, line := range []string{"the container begins", "[postStart] hello", "[postStart] an error", "[preStop] bye", "the container ends"} {
				want += "stdout F " + line + "\n"
			}
			if got := criLog(t, path); got != want {
				t.Errorf("the log has %q, want %q", got, want)
			}
		})
	}
}

// A containerd that comes back reads the stream again: what a preStop prints meanwhile is in the log.
func TestCRIOutputAcrossARestart(t *testing.T) {
	b := bed.OnOwnCRI(t)
	dir := b.TempDir()
	pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{preStop: " + bed.LogOutput("echo before; "+bed.WaitForGo+"echo after; touch printed; while [ ! -e end ]; do sleep 0.02; done; echo last") + "}"},
		func(config *harness.PodConfig) { config.LogDirectory = dir })
	c := b.Create(pod, bed.Talking, func(config *harness.PodContainerConfig) { config.LogPath = "app.log" })
	c.MustStart()
	c.WaitFor("ready")
	lost := c.StopLater(60 * time.Second)
	c.WaitFor("begun")
	if err := b.Daemon.Kill(); err != nil {
		b.Fatal(err)
	}
	<-lost
	c.Touch("go")
	c.WaitFor("printed") // without a reader
	if err := b.Daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	again := c.StopLater(60 * time.Second)
	c.Touch("end")
	c.Stopped(again)
	c.WantExit(7)
	path := filepath.Join(dir, "app.log")
	bed.Poll(b.T, "the last line", func() bool { return strings.Contains(criLog(b.T, path), "the container ends") })
	want := "stdout F the container begins\nstdout F [preStop] before\nstdout F [preStop] after\nstdout F [preStop] last\nstdout F the container ends\n"
	if got := criLog(b.T, path); got != want {
		b.Errorf("the log has %q, want %q", got, want)
	}
}
