package host

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins the namespaces before Go starts
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// Init does not return if this process was started to become the handler's process. It
// must be called from an init function, before other goroutines run: it changes the state
// of one thread.
func Init(args []string) {
	if len(args) < 2 || args[1] != wire.CommandInit {
		return
	}
	if err := take(); err != nil {
		fmt.Fprintln(os.Stderr, err) // read by words
		os.Exit(1)
	}
	libcontainer.Init() // does not return
}

// Main runs the command that the arguments name and returns the exit status.
func Main(args []string) int {
	// stderr belongs to the handler, and libcontainer returns what it logs as errors too.
	logrus.SetOutput(io.Discard)
	command := ""
	if len(args) > 1 {
		command = args[1]
	}
	switch command {
	case wire.CommandPrepare:
		return report(prepareFromStdin())
	case wire.CommandStart:
		return start()
	case wire.CommandClean:
		return report(cleanFromStdin())
	default:
		return report(fmt.Errorf("usage: lifecycle-hookexec %s|%s; it is called by containerd-shim-lifecycle-v2 only",
			wire.CommandPrepare, wire.CommandStart))
	}
}

func report(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, shorten.Error(err))
	return 1
}

// recovered turns a panic into an error. libcontainer panics on specs and states that no
// runtime writes, and the trace would be taken for the handler's output.
func recovered(err *error) {
	if value := recover(); value != nil {
		*err = fmt.Errorf("internal error: %v", value)
	}
}

func prepareFromStdin() error {
	stdin := json.NewDecoder(os.Stdin)
	var request wire.PrepareRequest
	if err := stdin.Decode(&request); err != nil {
		return fmt.Errorf("decode the request: %w", err)
	}
	return Prepare(request, func() (init wire.Init, err error) {
		if err = stdin.Decode(&init); err != nil {
			err = fmt.Errorf("wait for the container: %w", err)
		}
		return init, err
	})
}

func cleanFromStdin() error {
	var onExit wire.OnExit
	if err := json.NewDecoder(os.Stdin).Decode(&onExit); err != nil {
		return fmt.Errorf("decode the request: %w", err)
	}
	return Clean(onExit)
}

// start answers over the control socket, because stderr belongs to the handler.
func start() int {
	control := os.NewFile(wire.ControlFD, "control")
	pidfds := os.NewFile(wire.PidfdFD, "pidfd")
	for _, fd := range []int{wire.ControlFD, wire.PidfdFD} {
		unix.CloseOnExec(fd)
	}
	var request wire.StartRequest
	err := json.NewDecoder(control).Decode(&request)
	response := wire.StartResponse{}
	announce := func(pid int) error {
		return json.NewEncoder(control).Encode(wire.StartResponse{Pid: pid, Announced: true})
	}
	switch {
	case err != nil:
	case request.OnExit != nil:
		response.Pid, err = StartOnExit(request, pidfds, announce)
	default:
		response.Pid, err = Start(request, pidfds)
	}
	if err != nil {
		response.Error = shorten.Error(err) // the shim reads it after this process exits, so it must fit into the socket
	}
	if json.NewEncoder(control).Encode(response) != nil || err != nil {
		return 1
	}
	return 0
}
