// Command demo runs the example of the Kubernetes page "Attach Handlers to Container Lifecycle Events"
// with ctr alone, under a containerd of its own, and shows what a user would see, a line a step. Every
// line marked ✓ has been checked: the demo fails when the shim does not do what the line says.
//
//	make demo        or, with bin/ built:        go run -C integration ./demo
//
// The story is in start.go and stop.go; what is needed to tell it is in prepare.go and teardown.go.
// It needs root, and a Debian mirror the first time (see integration/image).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// tooLong bounds the whole demo. It takes 10 seconds, and a few minutes the first time on a slow line.
const tooLong = 10 * time.Minute

// exitInterrupted is what a shell shows for a program that ^C has ended.
const exitInterrupted = 130

func main() { os.Exit(run()) }

func run() int {
	bin := flag.String("bin", "../bin", "folder with containerd, ctr, runc and the shim")
	cache := flag.String("cache", "../.cache", "folder that keeps the packages and the image")
	hold := flag.Int("hold", 2, "seconds that postStart takes; a slow machine needs more to look around meanwhile")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, tooLong, fmt.Errorf("the demo took longer than %v", tooLong))
	defer cancel()
	// Caught, a closed output (`| head`) is a failing write; left alone, it would kill us with
	// containerd still running.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)

	d := &demo{cacheDir: *cache, holdSeconds: *hold, out: newTimeline(os.Stdout)}
	if err := d.findBinaries(*bin); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 2
	}
	d.out.title("Handlers of the Kubernetes page \"Attach Handlers to Container Lifecycle Events\", with ctr alone")
	err := d.tell(ctx)
	interrupted := err != nil && context.Cause(ctx) != nil
	if err != nil && !interrupted {
		d.showEvidence()
	}
	switch left := d.takeDown(); {
	case interrupted:
		d.out.verdict(false, context.Cause(ctx).Error())
		return exitInterrupted
	case err != nil || left != nil:
		d.out.verdict(false, "the demo failed")
		return 1
	}
	d.out.verdict(true, "everything above was checked, and nothing is left")
	return 0
}

// tell runs the story, in order, to its end or to the first step that is not as it should be.
func (d *demo) tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{
		d.prepare,
		d.startIsHeld,
		d.startIsAnswered,
		d.stopIsDelayed,
		d.remove,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// findBinaries says at once what is missing: later it would be an obscure error of containerd's.
func (d *demo) findBinaries(dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("containerd needs root: run `sudo make demo`")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	d.binDir = dir
	for _, name := range []string{"containerd", "ctr", "runc", shimBinary, "lifecycle-hookexec"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("%w: run `make demo`, which builds it, or `make build` first", err)
		}
	}
	return nil
}
