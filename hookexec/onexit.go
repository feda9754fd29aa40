package hookexec

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// cleanWait bounds the removal of what an onExit has left behind: the runtime kills
// its processes and removes its cgroup.
const cleanWait = 10 * time.Second

// OnExitExec runs a command in what is left of a container that has ended, in a
// process tree of its own, of which nothing is left when the command has ended.
type OnExitExec struct {
	Exec

	// CleanFailed is told that something is left; containerd's removal of the
	// container is what is left to remove it then.
	CleanFailed func(error)
}

// Attempt implements Action.
func (e *OnExitExec) Attempt(ctx context.Context) Result {
	result := e.Exec.Attempt(ctx)
	if err := e.Host.Clean(ctx, *e.Request.OnExit); err != nil {
		e.CleanFailed(err)
	}
	return result
}

// Clean removes what an onExit of the container has left behind, if anything.
func (h *Host) Clean(ctx context.Context, onExit wire.OnExit) error {
	return h.call(context.WithoutCancel(ctx), cleanWait, wire.CommandClean, onExit)
}

// CleanAlone is Clean for a process that has no reaper.
func (h *Host) CleanAlone(ctx context.Context, onExit wire.OnExit) error {
	input, err := json.Marshal(onExit)
	if err != nil {
		return err
	}
	cmd := h.command(wire.CommandClean)
	alone := exec.CommandContext(ctx, cmd.Path)
	alone.Args, alone.Env, alone.Dir, alone.Stdin = cmd.Args, cmd.Env, cmd.Dir, bytes.NewReader(input)
	if out, err := alone.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", HostBinary, wire.CommandClean, err, strings.TrimSpace(string(out)))
	}
	return nil
}

var _ Action = (*OnExitExec)(nil)
