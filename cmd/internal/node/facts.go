package node

// Facts are what gather reads about a node, and all that decide knows.
type Facts struct {
	// PID is 0 if containerd does not run. Program is its executable.
	PID     int
	Program string
	// Version is what its program reports, without the v.
	Version string
	// Config is the path of its configuration, without links.
	Config string
	// Files has the contents of the existing files that matter: the configuration, the files that it imports, templates and
	// drop-ins beside it.
	Files map[string][]byte
	// Dirs are the existing directories that may have drop-ins.
	Dirs map[string]bool
	// Cgroup is /proc/PID/cgroup.
	Cgroup string
	// Path is containerd's PATH. It is empty if containerd does not run.
	Path []string
	// System is ID in os-release. Nodeadm, Azure and Kubelet are set if the node has EKS's nodeadm, AKS's files, a kubelet's
	// configuration.
	System                  string
	Nodeadm, Azure, Kubelet bool
	// Places are directories for the programs, in order of preference.
	Places []Place
	// Bin is where the programs are now. Missing are those that are not there.
	Bin     string
	Missing []string
	// CgroupDriver is the kubelet's.
	CgroupDriver string
	// Settings are the contents for the node's settings, or nil.
	Settings []byte
}

// Place is a directory for the programs, which may not exist.
type Place struct {
	Dir string
	// Writable and Exec are about its file system. Trusted is set if only root can put files there.
	Writable, Exec, Trusted bool
}

// text returns the configuration, or nil if the file does not exist.
func (f Facts) text() []byte { return f.Files[f.Config] }
