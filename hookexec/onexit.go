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

// cleanWait bounds the clean-up after an onExit: the runtime kills its remaining processes
// and removes its cgroup.
const cleanWait = 10 * time.Second

// OnExitExec runs a command with the filesystem and namespaces of a container that has
// exited. The command has its own process tree, which is removed after each attempt.
type OnExitExec struct {
	Exec

	// CleanFailed is called if the removal fails. Then containerd's removal of the
	// container removes the rest.
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

// Clean removes what an onExit of the container left behind, if anything.
func (h *Host) Clean(ctx context.Context, onExit wire.OnExit) error {
	return h.call(context.WithoutCancel(ctx), cleanWait, wire.CommandClean, onExit)
}

// CleanAlone is Clean for a process without a reaper.
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
