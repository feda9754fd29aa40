package wire

// CommandClean reads an OnExit from stdin and removes what an onExit of the container
// has left behind, however far it came; errors are told on stderr.
const CommandClean = "clean"

// OnExit is what an onExit needs to know of a container that has ended. With it a
// StartRequest starts a process tree of its own, which the container's OCI runtime
// makes of what is left (package host).
type OnExit struct {
	// Shim is the shim's pid: without it nothing is begun. It is 0 where the shim has
	// died, for CommandClean.
	Shim int
	// ID is what the onExit's container is called by the runtime. runc names a session
	// keyring by it, which all who have the name share: it is as unique as the
	// container's own. CommandClean needs none.
	ID string
	// Bundle is the absolute path of the container's OCI bundle.
	Bundle string
	// Dir is an absolute path to a directory that only the shim uses.
	Dir string
	// Runtime is the absolute path of the container's OCI runtime.
	Runtime string
	// The runtime's options of these names.
	SystemdCgroup, NoPivotRoot, NoNewKeyring bool
	// Cgroup is the container's cgroupsPath, or what its runtime takes for an empty one.
	Cgroup string
	// Namespaces of the container that are kept, by their types' names in the OCI
	// spec: paths that any process of the machine can open. There is always a mount.
	Namespaces map[string]string
}
