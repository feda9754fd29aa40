package harness

import (
	"context"
	"fmt"
	"os/exec"
)

// Command is a command in the daemon's mount namespace, as an operator's has to be:
// lifecyclectl believes only the processes of its own. It runs without a shell.
func (d *Daemon) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	pid := d.Pid()
	if pid == 0 { // stopped: its shims are in its namespace too
		if shims, err := d.Shims(); err == nil && len(shims) > 0 {
			pid = shims[0].PID
		}
	}
	if !d.cfg.ownMounts() || pid == 0 {
		return exec.CommandContext(ctx, name, args...)
	}
	return exec.CommandContext(ctx, "nsenter", append([]string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", pid), "--", name}, args...)...)
}
