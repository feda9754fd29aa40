package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
)

const imageRef = image.Ref

// inside runs a command in the container. Its pipes are kept out of /run/containerd, ctr's default.
func (d *demo) inside(words ...string) []string {
	d.execs++
	id := words[0] + strconv.Itoa(d.execs) // every exec needs a name of its own
	args := []string{"task", "exec", "--exec-id", id, "--fifo-dir", filepath.Join(d.daemon.Dir, "fifo"), container}
	return append(args, words...)
}

// seeOutput runs a command in the container and wants a text in what it prints.
func (d *demo) seeOutput(ctx context.Context, want string, words ...string) error {
	out, err := d.ctr.shown(ctx, d.inside(words...)...)
	if err == nil && !strings.Contains(out, want) {
		err = fmt.Errorf("want %q in it", want)
	}
	return err
}

// seeProcess waits until a process shows in the container's `ps`, and shows that.
func (d *demo) seeProcess(ctx context.Context, want string) error {
	var args []string
	var out string
	err := harness.Poll(ctx, patience, fmt.Sprintf("%q in ps", want), func() (_ bool, err error) {
		args = d.inside("ps", "-o", "pid,args")
		out, err = d.ctr.quiet(ctx, args...)
		return strings.Contains(out, want), err
	})
	d.out.command(d.ctr.line(args))
	d.out.output(out)
	return err
}

// waitForNginx waits until the container's first process is nginx.
func (d *demo) waitForNginx(ctx context.Context) error {
	return harness.Poll(ctx, patience, "nginx to begin", func() (bool, error) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", d.init))
		return strings.TrimSpace(string(comm)) == "nginx", err
	})
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
