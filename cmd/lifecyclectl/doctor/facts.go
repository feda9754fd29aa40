// Package doctor looks at a node and says what is wrong with it, and what to do.
//
// Gather collects facts and judges nothing. Check judges facts and looks at nothing.
package doctor

// Names of the product's programs.
const (
	ShimBinary = "containerd-shim-lifecycle-v2"
	hostBinary = "lifecycle-hookexec"
)

// Facts are what a node is like, as far as it can be seen. What could not be read is the zero value, with the reason
// beside it where that matters.
type Facts struct {
	// Version of lifecyclectl.
	Version string
	// Handler is the CRI runtime handler that is looked for.
	Handler string
	Root    bool
	// Kernel is its release, such as 6.1.0-28-amd64.
	Kernel string
	// SystemdRuns: systemd is this machine's init. CgroupV2: its only hierarchy is that one.
	SystemdRuns, CgroupV2 bool
	Kubelet               *Kubelet // nil: none is found
	Containerds           []Containerd
}

// Kubelet is the node's kubelet.
type Kubelet struct {
	// CgroupDriver that its configuration names, cgroupfs or systemd, and the file that says so.
	CgroupDriver, Source string
}

// Containerd is one that runs, or was asked for.
type Containerd struct {
	// Address of its socket.
	Address string
	PID     int
	Version string
	// Err: it does not answer.
	Err string
	// Path is its own PATH.
	Path string
	// Config is its configuration file.
	Config string
	// CRI is what its CRI plugin has in effect. nil: there is none, and CRIErr says what it answers.
	CRI    *CRI
	CRIErr string
	// CRIDisabled: by its configuration.
	CRIDisabled bool
	// File is what its configuration files say by now. nil: they cannot be read, and FileErr says why.
	File    *CRI
	FileErr string
	// Shim is the program that serves the handler, Host the one of handlers beside it, and OCIRuntime what the shim runs.
	Shim, Host, OCIRuntime Program
	// Settings are the node's, as that shim reads them.
	Settings Settings
	// NRIPlugins that are connected.
	NRIPlugins int
	// OtherShims are shims that run, of another build than Shim.
	OtherShims []int
}

// CRI is the part of CRI's configuration that matters here.
type CRI struct {
	// Runtimes by handler.
	Runtimes map[string]Runtime
	// CgroupDriver that it tells the kubelet, cgroupfs or systemd; empty where it tells none (1.x).
	CgroupDriver string
}

// Runtime is one runtime handler.
type Runtime struct {
	Type, Path                           string
	PodAnnotations, ContainerAnnotations []string
	// Options are nil without such a table.
	Options map[string]any
}

// Program is an executable file, as containerd would find it.
type Program struct {
	// Name that is looked for, and Path at which containerd finds it. Empty: nowhere.
	Name, Path string
	// Version it tells. Empty: none, and Err says why.
	Version, Err string
}

// Settings are those of /etc/lifecycle-shim/config.toml.
type Settings struct {
	// Err: the shim refuses them.
	Err string
	// MetricsFile is empty where nothing is counted. MetricsErr: nothing can be written there.
	MetricsFile, MetricsErr string
}

// A Level says how bad a finding is.
type Level string

// A Fault keeps handlers from working; a Note is worth to know.
const (
	Fault Level = "fault"
	Note  Level = "note"
)

// Finding is one thing that is wrong.
type Finding struct {
	Level Level `json:"level"`
	// Check that has found it: a word for programs, which stays.
	Check string `json:"check"`
	// Where: the containerd's address; empty for the machine.
	Where   string `json:"where,omitempty"`
	Message string `json:"message"`
	// Cure is what to do. Empty for what only is to be known.
	Cure string `json:"cure,omitempty"`
}
