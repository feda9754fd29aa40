package wire

// CommandClean reads an OnExit from stdin and removes what an onExit of the container left
// behind, even if its start failed at any step. Errors go to stderr.
const CommandClean = "clean"

// OnExit describes a container that has exited. A StartRequest with it starts a separate
// process tree, which the container's OCI runtime creates from the kept namespaces and
// mounts (package host).
type OnExit struct {
	// Shim is the shim's pid. If the shim has died, nothing is started. It is 0 for a
	// CommandClean after the shim's death.
	Shim int
	// ID is the runtime's name of the onExit's container. It must be as unique as the
	// container's own: runc names a session keyring by it, and containers with the same
	// name share that. CommandClean does not need it.
	ID string
	// Bundle is the absolute path of the container's OCI bundle.
	Bundle string
	// Dir is the absolute path of a directory that only the shim uses.
	Dir string
	// Runtime is the absolute path of the container's OCI runtime.
	Runtime string
	// The runtime's options of these names.
	SystemdCgroup, NoPivotRoot, NoNewKeyring bool
	// Cgroup is the container's cgroupsPath. If that is empty, it is the runtime's default.
	Cgroup string
	// Namespaces are the container's kept namespaces, by their types' names in the OCI spec:
	// paths that any process of the machine can open. The mount namespace is always one.
	Namespaces map[string]string
}
