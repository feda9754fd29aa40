package runner

import (
	"context"
	"errors"
	"fmt"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// Signal sends a signal that no client requested. It goes directly to the init, because
// the runtime would do no more: one runc process for each container that stops would be
// most of the work of a drain, and while it runs the runc service reports no exit.
// SIGKILL goes through the runtime, which also kills what else is in the container, and
// thaws a frozen cgroup.
func (r *Runner) Signal(ctx context.Context, signal lifecycle.Signal) error {
	if signal.Number == uint32(unix.SIGKILL) || signal.All {
		return r.signalByRuntime(ctx, signal)
	}
	if r.signalInit(signal) == nil {
		return nil
	}
	return r.signalByRuntime(ctx, signal)
}

// signalByRuntime signals the process directly if the runtime cannot run: the signal must
// not be lost.
func (r *Runner) signalByRuntime(ctx context.Context, signal lifecycle.Signal) error {
	_, err := r.config.Task.Kill(ctx, &taskapi.KillRequest{ID: r.config.ID, Signal: signal.Number, All: signal.All})
	if err == nil || errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return nil // it was sent, or the container had exited
	}
	if direct := r.signalInit(signal); direct != nil {
		return errors.Join(err, direct)
	}
	return nil
}

// signalInit signals the container's init. It succeeds if the init has exited.
func (r *Runner) signalInit(signal lifecycle.Signal) error {
	err := unix.PidfdSendSignal(r.pidfd, unix.Signal(signal.Number), nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func signalName(number uint32) string {
	if name := unix.SignalName(unix.Signal(number)); name != "" {
		return name
	}
	const rtMin, rtMax = 34, 64 // signal(7), as glibc numbers them
	if number >= rtMin && number <= rtMax {
		return fmt.Sprintf("SIGRTMIN+%d", number-rtMin)
	}
	return fmt.Sprint(number)
}
