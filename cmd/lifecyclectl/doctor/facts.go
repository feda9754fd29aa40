// Package doctor finds out what is wrong with a node, and what to do about it.
//
// Gather collects facts without judging them. Check judges facts and does no I/O.
package doctor

// Names of the product's programs.
const (
	ShimBinary = "containerd-shim-lifecycle-v2"
	hostBinary = "lifecycle-hookexec"
)

// Facts describe a node. A fact that could not be read is the zero value, with an error beside it if that matters.
type Facts struct {
	// Version of lifecyclectl.
	Version string
	// Handler is the CRI runtime handler to look for.
	Handler string
	Root    bool
	// Kernel is the kernel's release, such as 6.1.0-28-amd64.
	Kernel string
	// SystemdRuns is set if systemd is this machine's init, CgroupV2 if it has only cgroup v2.
	SystemdRuns, CgroupV2 bool
	Kubelet               *Kubelet // nil if there is no configuration of a kubelet
	Containerds           []Containerd
}

// Kubelet is the node's kubelet.
type Kubelet struct {
	// CgroupDriver is cgroupfs or systemd, Source the flag or file that sets it.
	CgroupDriver, Source string
}

// Containerd is a containerd that runs, or that --address names.
type Containerd struct {
	// Address of its socket.
	Address string
	PID     int
	Version string
	// Err is set if it does not answer.
	Err string
	// Path is its own PATH.
	Path string
	// Config is its configuration file.
	Config string
	// CRI is the configuration that its CRI plugin uses. It is nil if the plugin does not answer, and CRIErr is the error.
	CRI    *CRI
	CRIErr string
	// CRIDisabled is set if its configuration disables CRI.
	CRIDisabled bool
	// File is the present content of its configuration files. It is nil if they cannot be read, and FileErr is the error.
	File    *CRI
	FileErr string
	// Shim is the program of the runtime handler, Host runs its exec handlers, and OCIRuntime is the runtime that the shim runs.
	Shim, Host, OCIRuntime Program
	// Settings are the node's settings as Shim reads them.
	Settings Settings
	// NRIPlugins is the number of connected NRI plugins.
	NRIPlugins int
	// OtherShims are the pids of running shims whose build differs from Shim.
	OtherShims []int
}

// CRI is the part of CRI's configuration that matters here.
type CRI struct {
	// Runtimes by handler.
	Runtimes map[string]Runtime
	// CgroupDriver is the one that it reports to the kubelet, cgroupfs or systemd, or "" if it reports none (1.x).
	CgroupDriver string
}

// Runtime is one runtime handler.
type Runtime struct {
	Type, Path                           string
	PodAnnotations, ContainerAnnotations []string
	// Options is nil if the handler has no such table.
	Options map[string]any
}

// Program is an executable file as containerd finds it.
type Program struct {
	// Name is searched for, and found at Path. Path is empty if it is not found.
	Name, Path string
	// Version is what it reports. Err is set if it cannot run.
	Version, Err string
}

// Settings are those of /etc/lifecycle-shim/config.toml.
type Settings struct {
	// Err is the shim's error if they are not valid.
	Err string
	// MetricsFile is empty if there are no counters. MetricsErr is set if the file cannot be written.
	MetricsFile, MetricsErr string
	// AllowedHandlers are the types that the operator allows, or nil if the shim's build does not report them.
	AllowedHandlers []string
}

// Level is the severity of a finding.
type Level string

// A Fault prevents handlers from working. A Note does not.
const (
	Fault Level = "fault"
	Note  Level = "note"
)

// Finding is one result of Check.
type Finding struct {
	Level Level `json:"level"`
	// Check names the check for programs. The names do not change.
	Check string `json:"check"`
	// Where is the containerd's address, empty if the finding is about the machine.
	Where   string `json:"where,omitempty"`
	Message string `json:"message"`
	// Cure is what to do, empty if nothing has to be done.
	Cure string `json:"cure,omitempty"`
}
