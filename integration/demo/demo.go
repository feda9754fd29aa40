package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
)

// namespace is containerd's, and the parent of the container's cgroup: two demos at once must differ.
var namespace = fmt.Sprintf("demo-%d", os.Getpid())

const (
	shimBinary = "containerd-shim-lifecycle-v2"
	runtime    = "io.containerd.lifecycle.v2"
	container  = "web"

	// atOnce is how soon a Kill that waits for nothing has come back through ctr, on a busy machine.
	atOnce = time.Second
	// patience is how long we wait for what follows within milliseconds.
	patience = 15 * time.Second

	message     = "Hello from the postStart handler"
	messageFile = "/usr/share/message"
)

// lifecycle is the page's example, with a sleep so that the hold can be watched.
func (d *demo) lifecycle() string {
	return fmt.Sprintf(`
postStart:
  exec:
    command: [/bin/sh, -c, "sleep %d; echo %s > %s"]
preStop:
  exec:
    command: [/bin/sh, -c, "nginx -s quit; while killall -0 nginx; do sleep 1; done"]
stopSignal: SIGQUIT
terminationGracePeriodSeconds: %d
`, d.holdSeconds, message, messageFile, d.holdSeconds+30)
}

// hold is how long the postStart handler sleeps, and a bit less than the request in flight takes at the
// stop: long enough to look around meanwhile.
func (d *demo) hold() time.Duration { return time.Duration(d.holdSeconds) * time.Second }

// demo is the state the chapters hand on. Only the main goroutine touches it.
type demo struct {
	out              *timeline
	binDir, cacheDir string
	holdSeconds      int

	daemon *harness.Daemon
	watch  harness.Watch    // where something might be left
	before harness.Snapshot // what was there before the container
	ctr    *ctr
	events *eventStream
	image  *image.Image

	run   *background // the `ctr run` whose answer is held
	init  int         // process id of the container's first process
	execs int         // how many commands we have run in it
}

// step runs one step and writes its line. The step returns what is worth saying about its outcome.
func (d *demo) step(title string, do func() (string, error)) error {
	began := time.Now()
	detail, err := do()
	d.out.step(title, detail, time.Since(began), err)
	if err != nil {
		return fmt.Errorf("%s: %w", title, err)
	}
	return nil
}

// background is a command that runs while the story goes on.
type background struct {
	began time.Time
	done  chan struct{} // closed, by the goroutine that runs the command, when the command has ended
	out   string        // valid once done is closed
	err   error         // the same
	took  time.Duration // the same
}

func inBackground(run func() (string, error)) *background {
	b := &background{began: time.Now(), done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.out, b.err = run()
		b.took = time.Since(b.began)
	}()
	return b
}

func (b *background) wait(ctx context.Context) (string, error) {
	select {
	case <-b.done:
		return b.out, b.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// command prepares a command that ends with ctx, and not by a ^C at the terminal: that is for us, who then
// take everything down in order.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // a grandchild may keep the pipes open after a kill
	return cmd
}
