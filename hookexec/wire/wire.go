// Package wire is what the shim and the handler host say to each other. Both
// are always of the same build: the shim opens its host when it starts. It
// imports nothing, so that neither binary pays for the other.
package wire

// Commands of the handler host.
const (
	// CommandPrepare reads a PrepareRequest from stdin, and then, when the container
	// has been created, an Init, and writes the state of the container; errors are
	// told on stderr.
	CommandPrepare = "prepare"
	// CommandStart starts one handler and leaves.
	CommandStart = "start"
	// CommandInit is libcontainer's own: the process that becomes the handler.
	CommandInit = "init"
)

// Descriptors that CommandStart inherits beside stdin (/dev/null) and the
// handler's output on stdout and stderr.
const (
	// ControlFD is a stream socket: a StartRequest in, a StartResponse out,
	// for an onExit after an announcement.
	ControlFD = 3
	// PidfdFD is a socket over which the handler's process sends a pidfd of
	// itself, before it becomes the handler.
	PidfdFD = 4
)

// PrepareRequest asks to derive, from the bundle's spec, what is needed to run
// processes in the container.
type PrepareRequest struct {
	// Root is an absolute path to a directory that only the shim uses.
	Root string
	// ID of the container.
	ID string
	// Bundle is the absolute path of the OCI bundle.
	Bundle string
	// NoNewKeyring is the runc option of that name.
	NoNewKeyring bool
}

// Init is the container's first process.
type Init struct {
	// Pid of it. It has not been reaped.
	Pid int
}

// StartRequest asks to start a handler in a prepared container.
type StartRequest struct {
	Root, ID string
	// Args is the command, Env what it gets on top of the container's own
	// environment, as KEY=value.
	Args, Env []string
	// OnExit is set for an onExit.
	OnExit *OnExit
}

// StartResponse reports whether the handler was started. For an onExit, whose process
// the shim may reap before that is known, an announcement comes first.
type StartResponse struct {
	// Error is empty if the handler was started.
	Error string
	// Pid of the handler, in the pid namespace of shim and host.
	Pid int
	// Announced: Pid is the process that will be started; the answer is still to come.
	Announced bool `json:",omitempty"`
}
