package runner

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestSignal: a stop signal goes to the process at once, and what is the runtime's to the runtime, once each.
func TestSignal(t *testing.T) {
	refused := func(context.Context, any) (any, error) { return nil, errors.New("it cannot be run") }
	gone := func(context.Context, any) (any, error) { return nil, status.Error(codes.NotFound, "it has exited") }
	for name, test := range map[string]struct {
		signal   lifecycle.Signal
		noPidfd  bool
		runtime  func(context.Context, any) (any, error)
		asked    int
		received syscall.Signal // by the process; the fake runtime sends none
		fails    bool
	}{
		"a stop signal":             {signal: lifecycle.Signal{Number: 15}, runtime: refused, received: unix.SIGTERM},
		"the same, without a pidfd": {signal: lifecycle.Signal{Number: 15}, noPidfd: true, asked: 1},
		"SIGKILL":                   {signal: lifecycle.Signal{Number: 9}, asked: 1},
		"to all processes":          {signal: lifecycle.Signal{Number: 15, All: true}, asked: 1},
		"SIGKILL, and no runtime":   {signal: lifecycle.Signal{Number: 9}, runtime: refused, asked: 1, received: unix.SIGKILL},
		"SIGKILL, which the runtime finds no process for": {signal: lifecycle.Signal{Number: 9}, noPidfd: true, runtime: gone, asked: 1},
		"a stop signal, neither runtime nor a process":    {signal: lifecycle.Signal{Number: 15}, noPidfd: true, runtime: refused, asked: 1, fails: true},
		"SIGKILL, neither runtime nor a process":          {signal: lifecycle.Signal{Number: 9}, noPidfd: true, runtime: refused, asked: 1, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			pidfd := -1
			process := exec.Command("sleep", "1000")
			process.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
			if err := process.Start(); err != nil {
				t.Fatal(err)
			}
			inner := shimtest.NewTask()
			inner.Answer["Kill"] = test.runtime
			r := &Runner{config: Config{Task: inner, ID: "c1"}, pidfd: pidfd}
			if test.noPidfd {
				r.pidfd = -1
			}
			if err := r.Signal(t.Context(), test.signal); (err != nil) != test.fails {
				t.Errorf("got %v", err)
			}
			requests := inner.Asked("Kill")
			if len(requests) != test.asked {
				t.Errorf("the runtime is asked %d times", len(requests))
			}
			for _, request := range requests {
				want := &taskapi.KillRequest{ID: "c1", Signal: test.signal.Number, All: test.signal.All}
				if !proto.Equal(request.(*taskapi.KillRequest), want) {
					t.Errorf("the runtime is asked for %v", request)
				}
			}
			want := test.received
			if want == 0 { // it has got nothing: it runs, until now
				want = unix.SIGUSR1
				_ = process.Process.Signal(want)
			}
			_ = process.Wait() // ended by a signal
			if got := process.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != want {
				t.Errorf("the process was ended by %s", got)
			}
			if err := r.Signal(t.Context(), lifecycle.Signal{Number: 15}); err != nil && !test.noPidfd {
				t.Errorf("once it has gone: %v", err)
			}
			_ = unix.Close(pidfd)
		})
	}
}
