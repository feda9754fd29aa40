package doctor

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// ourType is the shim's runtime type.
const ourType = "io.containerd.lifecycle.v2"

// runcType is the type of runc's shim, which runtime_path may replace with ours.
const runcType = "io.containerd.runc.v2"

// Check judges the facts. If it finds no fault, the node runs handlers.
func Check(f Facts) []Finding {
	if !f.Root {
		return []Finding{{Fault, "root", "", "cannot check the node: only root can see its sockets and processes", "run this as root"}}
	}
	findings := checkKernel(f.Kernel)
	if len(f.Containerds) == 0 {
		return append(findings, Finding{
			Fault, "containerd", "", "no containerd runs on this machine",
			"start it (systemctl start containerd), or name its socket with --address",
		})
	}
	for _, c := range f.Containerds {
		for _, finding := range c.check(f) {
			finding.Where = c.Address
			findings = append(findings, finding)
		}
	}
	return findings
}

func checkKernel(release string) []Finding {
	switch {
	case older(release, 5, 10):
		return []Finding{{Fault, "kernel", "", "Linux " + release + " is older than 5.10", "install Linux 5.10 or newer"}}
	case older(release, 6, 9):
		return []Finding{{Note, "kernel", "", "Linux " + release + " cannot signal a process group by pidfd (6.9 can): handlers get signals by pid, after a check that it is still theirs", ""}}
	}
	return nil
}

// older compares the first two numbers of a version. It returns false if there are none.
func older(version string, major, minor int) bool {
	gotMajor, gotMinor, ok := numbers(version)
	return ok && (gotMajor < major || gotMajor == major && gotMinor < minor)
}

func numbers(version string) (major, minor int, ok bool) {
	n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return major, minor, n == 2
}

func (c *Containerd) check(f Facts) []Finding {
	if c.Err != "" {
		return []Finding{{
			Fault, "containerd", "", "containerd does not answer: " + c.Err,
			"start it (systemctl start containerd), or name another socket with --address",
		}}
	}
	findings := c.checkVersion()
	handler, found := c.findHandler(f.Handler)
	findings = append(findings, found...)
	if handler != nil {
		findings = append(findings, c.checkRuntime(f.Handler, *handler)...)
		findings = append(findings, checkAnnotations(f.Handler, *handler)...)
		findings = append(findings, c.checkCgroups(f, *handler)...)
	}
	if handler != nil || !c.CRIDisabled { // docker's containerd has no CRI, and need not have this shim
		findings = append(findings, c.checkPrograms(f.Version)...)
		findings = append(findings, c.checkSettings()...)
		findings = append(findings, c.checkNotes()...)
	}
	return findings
}

func (c *Containerd) checkVersion() []Finding {
	_, _, known := numbers(c.Version)
	switch {
	case older(c.Version, 1, 6):
		return []Finding{{Fault, "containerd-version", "", "containerd " + c.Version + " is older than 1.6", "install containerd 1.6 or newer"}}
	case known && !older(c.Version, 2, 5):
		return []Finding{{Note, "containerd-version", "", "containerd " + c.Version + " is newer than 2.4, the newest version that this build was tested with", ""}}
	}
	return nil
}

// findHandler returns the handler that containerd uses, or findings if there is none.
func (c *Containerd) findHandler(name string) (*Runtime, []Finding) {
	fault := func(message, cure string) (*Runtime, []Finding) {
		return nil, []Finding{{Fault, "handler", "", message, cure}}
	}
	if c.CRI == nil {
		switch {
		case c.CRIDisabled:
			return nil, []Finding{{Note, "handler", "", "its CRI plugin is switched off: this containerd does not serve Kubernetes and needs no runtime handler", ""}}
		case c.File != nil && len(c.File.Runtimes) > 0 && c.File.Runtimes["runc"].Type == "":
			return fault("its CRI plugin did not start: "+c.CRIErr+". If its configuration names any runtime, it must name runc too, and it does not",
				"append containerd/1.x/runc.toml of the examples to "+c.Config+", and restart containerd")
		}
		return fault("its CRI plugin does not answer: "+c.CRIErr, "look for the reason in its log: journalctl -u containerd | grep cri")
	}
	if handler, ok := c.CRI.Runtimes[name]; ok {
		return &handler, nil
	}
	message := fmt.Sprintf("there is no runtime handler %q", name)
	if c.File != nil {
		if _, ok := c.File.Runtimes[name]; ok {
			return fault(message+" in use, but the configuration files have one", "restart containerd: it has not read the new configuration")
		}
	}
	return fault(message, fmt.Sprintf("add it to containerd's configuration: lifecyclectl node install, or %s of the examples", c.example()))
}

// example is the file of deploy/ for this version.
func (c *Containerd) example() string {
	if older(c.Version, 2, 0) {
		return "containerd/1.x/lifecycle.toml"
	}
	return "containerd/2.x/lifecycle.toml"
}

func (c *Containerd) checkRuntime(name string, r Runtime) []Finding {
	fault := func(message, cure string) []Finding { return []Finding{{Fault, "runtime", "", message, cure}} }
	isPath := filepath.IsAbs(r.Type)
	switch {
	case r.Type == runcType && r.Path == "":
		return fault(fmt.Sprintf("the runtime handler %q is runc's own shim, which runs no handlers", name),
			fmt.Sprintf("set its runtime_type to %q, or its runtime_path to that of %s", ourType, ShimBinary))
	case r.Type == runcType && ignoresRuntimePath(c.Version):
		return fault("containerd "+c.Version+" ignores runtime_path (1.6.21 does not): pods run under runc's own shim, without handlers",
			fmt.Sprintf("set runtime_type to %q and remove runtime_path, or install a newer containerd", ourType))
	case r.Path != "" && filepath.Base(r.Path) != ShimBinary || isPath && filepath.Base(r.Type) != ShimBinary:
		return fault(fmt.Sprintf("the runtime handler %q runs %s, which is not %s", name, cmp.Or(r.Path, r.Type), ShimBinary),
			"set its runtime_path to that of "+ShimBinary)
	case r.Type != runcType && r.Type != ourType && !isPath:
		return fault(fmt.Sprintf("the runtime handler %q has the type %q, which is not this shim's", name, r.Type),
			fmt.Sprintf("set its runtime_type to %q", ourType))
	case r.Type != runcType && older(c.Version, 1, 7) && len(r.Options) > 0 && r.Options["ConfigPath"] == nil:
		return fault("containerd "+c.Version+" passes options only to runc's own runtime type: the options table has no effect",
			"write the options into a file and name it in the table: ConfigPath = \"/etc/lifecycle-shim/options.toml\"")
	}
	return nil
}

// ignoresRuntimePath reports whether CRI of that version ignores the path. 1.6.21 is the first 1.6 that passes it on.
func ignoresRuntimePath(version string) bool {
	patch := 0
	n, _ := fmt.Sscanf(version, "1.6.%d", &patch)
	return n == 1 && patch < 21
}

// Keys of annotations that containerd has to pass to the shim. One of the patterns must match each.
var (
	podKeys       = []string{"lifecycle-shim.io/lifecycle", "container.lifecycle-shim.io/lifecycle"}
	containerKeys = []string{"io.kubernetes.pod.terminationGracePeriod"}
)

func checkAnnotations(name string, r Runtime) []Finding {
	var findings []Finding
	if missing := unmatched(podKeys, r.PodAnnotations); len(missing) > 0 {
		findings = append(findings, Finding{
			Fault, "pod-annotations", "",
			fmt.Sprintf("the runtime handler %q does not pass the annotation %s: the shim does not see handlers", name, strings.Join(missing, " and ")),
			"set its pod_annotations = ['lifecycle-shim.io/*', '*.lifecycle-shim.io/*']",
		})
	}
	if missing := unmatched(containerKeys, r.ContainerAnnotations); len(missing) > 0 {
		findings = append(findings, Finding{
			Fault, "container-annotations", "",
			fmt.Sprintf("the runtime handler %q does not pass the annotation %s: after a failed postStart the shim does not know the pod's grace period", name, strings.Join(missing, " and ")),
			"set its container_annotations = ['io.kubernetes.*']",
		})
	}
	return findings
}

// unmatched returns the keys that no pattern matches. containerd uses path.Match.
func unmatched(keys, patterns []string) []string {
	var missing []string
	for _, key := range keys {
		matched := false
		for _, pattern := range patterns {
			ok, err := path.Match(pattern, key)
			matched = matched || ok && err == nil
		}
		if !matched {
			missing = append(missing, key)
		}
	}
	return missing
}

const (
	systemd  = "systemd"
	cgroupfs = "cgroupfs"
)

// driver returns the cgroup driver that a handler requires, or "" if it follows the cgroups path that it is given.
func (r Runtime) driver() string {
	value, named := r.Options["SystemdCgroup"].(bool)
	switch {
	case value:
		return systemd
	case named || r.Type == runcType && r.Options != nil: // runc's options always have the field
		return cgroupfs
	}
	return ""
}

func (c *Containerd) checkCgroups(f Facts, r Runtime) []Finding {
	driver := r.driver()
	if driver == "" {
		return nil
	}
	cure := "set SystemdCgroup = " + map[string]string{systemd: "false", cgroupfs: "true"}[driver] + " in the handler's options"
	if driver == systemd && !f.SystemdRuns {
		return []Finding{{Fault, "cgroup-driver", "", "the handler uses systemd's cgroups, but systemd is not this machine's init", cure}}
	}
	reported := ""
	if c.CRI != nil {
		reported = c.CRI.CgroupDriver
	}
	configured := ""
	if f.Kubelet != nil {
		configured = f.Kubelet.CgroupDriver
	}
	switch {
	case configured == "" && reported == "":
		if driver == cgroupfs && f.SystemdRuns && f.CgroupV2 {
			return []Finding{{Note, "cgroup-driver", "", "the handler uses cgroupfs, but systemd manages cgroup v2; kubelets normally use systemd there", cure}}
		}
	case driver == configured || driver == reported:
		if configured != "" && reported != "" && configured != reported {
			return []Finding{{
				Note, "cgroup-driver", "",
				fmt.Sprintf("CRI reports %s, %s sets %s: kubelets from 1.34 on follow CRI, older ones their configuration", reported, f.Kubelet.Source, configured),
				"set both to the same driver",
			}}
		}
	default:
		return []Finding{{
			Fault, "cgroup-driver", "",
			fmt.Sprintf("the handler uses %s, the kubelet %s (%s)", driver, cmp.Or(configured, reported), c.sourceOf(f, configured)),
			cure + ", or change the driver of the kubelet and of containerd's default runtime",
		}}
	}
	return nil
}

func (c *Containerd) sourceOf(f Facts, configured string) string {
	if configured != "" {
		return f.Kubelet.Source
	}
	return "reported by CRI"
}

func (c *Containerd) checkPrograms(version string) []Finding {
	var findings []Finding
	const install = "install the three programs of one build: `make install`, the package, or lifecyclectl node install"
	for _, program := range []struct {
		Program
		ours        bool
		name, where string
	}{
		{c.Shim, true, "shim", ""},
		{c.Host, true, "hookexec", ", beside the shim or on containerd's PATH"},
		{c.OCIRuntime, false, "oci-runtime", ""},
	} {
		fault := func(message, cure string) {
			findings = append(findings, Finding{Fault, program.name, "", message, cure})
		}
		where := cmp.Or(program.where, " on containerd's PATH") + ", which is " + c.Path
		if filepath.IsAbs(program.Name) {
			where = ""
		}
		switch {
		case program.Name == "": // unknown, because there is no shim
		case program.Path == "" && program.ours:
			fault("there is no "+program.Name+where, install+", into a directory on that PATH")
		case program.Path == "":
			fault("there is no "+program.Name+where, "install it there, or name another with BinaryName in the handler's options")
		case program.Err != "":
			fault(program.Path+" cannot run: "+program.Err, cureOf(program.ours, install))
		case program.ours && program.Version == "":
			fault(program.Path+" is an old build that reports no version", install)
		case program.ours && program.Version != version:
			fault(fmt.Sprintf("%s is version %s, lifecyclectl is %s", program.Path, program.Version, version), install)
		}
	}
	return findings
}

func cureOf(ours bool, install string) string {
	if ours {
		return install
	}
	return "install it again from its original source"
}

func (c *Containerd) checkSettings() []Finding {
	const file = "/etc/lifecycle-shim/config.toml"
	switch {
	case c.Settings.Err != "":
		return []Finding{{Fault, "settings", "", "containers with handlers are refused: " + c.Settings.Err, "correct " + file + " (config.toml of the examples has all settings); nothing needs a restart"}}
	case c.Settings.MetricsErr != "":
		return []Finding{{
			Fault, "metrics", "", fmt.Sprintf("cannot write counters to %s: %s", c.Settings.MetricsFile, c.Settings.MetricsErr),
			fmt.Sprintf("make %s a directory that root can write, or set another MetricsFile in %s", filepath.Dir(c.Settings.MetricsFile), file),
		}}
	}
	return nil
}

func (c *Containerd) checkNotes() []Finding {
	var findings []Finding
	if c.NRIPlugins > 0 {
		findings = append(findings, Finding{
			Note, "nri", "", fmt.Sprintf("NRI plugins are connected (%d): a plugin that registers while a start is held waits for the start", c.NRIPlugins),
			"give postStart handlers a short timeoutSeconds",
		})
	}
	if len(c.OtherShims) > 0 {
		findings = append(findings, Finding{
			Note, "other-build", "", fmt.Sprintf("shims of another build than %s are running (%d, such as process %d): an upgrade does not replace running shims", c.Shim.Path, len(c.OtherShims), c.OtherShims[0]),
			"nothing after an upgrade: pods get the new build when they are created again",
		})
	}
	return findings
}
