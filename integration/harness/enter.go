package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// Command is a command in the daemon's mount namespace, as an operator's has to be:
// lifecyclectl believes only its own processes. It runs without a shell.
func (d *Daemon) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	words := append(append(d.enterMounts(), name), args...)
	return exec.CommandContext(ctx, words[0], words[1:]...)
}

// enterMounts are the words before a command in the daemon's mount namespace.
func (d *Daemon) enterMounts() []string {
	if d.mounts == nil {
		return nil
	}
	return []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/fd/%d", os.Getpid(), d.mounts.Fd()), "--"}
}
