// Package wire defines the messages between the shim and the handler host. Both are always
// of the same build, because the shim opens its host when it starts. The package imports
// nothing, so that neither binary links the other's dependencies.
package wire

// Commands of the handler host.
const (
	// CommandPrepare reads a PrepareRequest from stdin, and an Init after the container
	// was created. It writes the state of the container. Errors go to stderr.
	CommandPrepare = "prepare"
	// CommandStart starts one handler and exits.
	CommandStart = "start"
	// CommandInit is libcontainer's: the process that becomes the handler.
	CommandInit = "init"
)

// Descriptors that CommandStart inherits in addition to stdin (/dev/null), stdout and stderr
// (the handler's output).
const (
	// ControlFD is a stream socket. The host reads a StartRequest from it and writes a
	// StartResponse, for an onExit after an announcement.
	ControlFD = 3
	// PidfdFD is a socket. The handler's process sends a pidfd of itself over it, before it
	// becomes the handler.
	PidfdFD = 4
)

// PrepareRequest asks the host to derive from the bundle's spec what it needs to run
// processes in the container.
type PrepareRequest struct {
	// Root is the absolute path of a directory that only the shim uses.
	Root string
	// ID is the container's.
	ID string
	// Bundle is the absolute path of the OCI bundle.
	Bundle string
	// NoNewKeyring is the runc option of that name.
	NoNewKeyring bool
}

// Init is the container's first process.
type Init struct {
	// Pid is the process's. It must not have been reaped.
	Pid int
}

// StartRequest asks to start a handler in a prepared container.
type StartRequest struct {
	Root, ID string
	// Args is the command. Env is added to the container's own environment, as KEY=value.
	Args, Env []string
	// OnExit is set for an onExit.
	OnExit *OnExit
}

// StartResponse reports whether the handler was started. For an onExit, an announcement
// comes first, because the shim may reap its process before it reads the answer.
type StartResponse struct {
	// Error is empty if the handler was started.
	Error string
	// Pid of the handler, in the pid namespace of shim and host.
	Pid int
	// Announced means that this is an announcement: Pid is the process that will be started.
	Announced bool `json:",omitempty"`
}
