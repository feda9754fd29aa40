package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/doctor"
)

// maxFile bounds a configuration, in bytes. Real ones have a few thousand.
const maxFile = 1 << 20

// resolve returns a path without links, also for a file that does not exist (realpath -m).
func resolve(path string) string {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		return resolved
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(resolve(dir), filepath.Base(path))
	}
	return path
}

// find returns the containerd to configure.
func find(o Options) (choice, *Failure) {
	running, err := doctor.Daemons()
	if err != nil {
		return choice{}, fail(StepContainerd, "", "cannot list the containerds that run: %s", err)
	}
	var all []Daemon
	for _, d := range running {
		all = append(all, Daemon{d.PID, d.Program, d.Config, resolve(d.Config), o.Containerd != "" && sameFile(d.Program, o.Containerd)})
	}
	config := o.Config
	if config != "" {
		config = resolve(config)
	}
	chosen, failure := choose(all, o, config)
	if failure == nil {
		chosen.config = resolve(chosen.config)
	}
	return chosen, failure
}

func sameFile(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// findProgram returns the path of containerd's program without links, if only root can have changed it.
func findProgram(c choice) (string, *Failure) {
	program := c.program
	if program == "" {
		found, err := exec.LookPath("containerd")
		if err != nil {
			return "", fail(StepContainerd, "", "cannot find containerd: name it with --containerd")
		}
		program = found
	}
	resolved, err := trust.Program(program)
	var culprit *trust.Culprit
	switch {
	case errors.As(err, &culprit):
		return "", fail(StepTrust, "", "cannot run %s, because others than root could have changed %s: chown root:root and chmod go-w,ug-s it first", program, culprit.Path)
	case errors.Is(err, fs.ErrNotExist):
		return "", fail(StepContainerd, "", "cannot find %s, which process %d runs: install containerd again, and restart it", program, c.pid)
	case err != nil:
		return "", fail(StepContainerd, "", "cannot run %s: %s", program, err)
	}
	return resolved, nil
}

// gather reads the facts about the chosen containerd.
func gather(ctx context.Context, c choice, o Options) (Facts, *Failure) {
	f := Facts{PID: c.pid, Config: c.config}
	var failure *Failure
	if f.Program, failure = findProgram(c); failure != nil {
		return f, failure
	}
	var err error
	if f.Version, err = (containerd{f.Program}).version(ctx); err != nil {
		return f, fail(StepContainerd, "", "cannot ask %s for its version: %s", f.Program, err)
	}
	if f.PID != 0 {
		process, err := trust.Open(f.PID)
		if err != nil {
			return f, fail(StepContainerd, "run this again", "cannot inspect containerd: %s", err)
		}
		f.Path = filepath.SplitList(process.Getenv("PATH"))
		cgroup, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(f.PID), "cgroup"))
		if err != nil {
			return f, fail(StepContainerd, "run this again", "cannot read the cgroup of containerd: %s", err)
		}
		f.Cgroup = string(cgroup)
	}
	if failure := f.readFiles("/"); failure != nil {
		return f, failure
	}
	f.readSystem("/")
	f.readPrograms(o)
	if kubelet := doctor.FindKubelet(); kubelet != nil {
		f.CgroupDriver, f.Kubelet = kubelet.CgroupDriver, true
	}
	if o.Settings != "" {
		if f.Settings, err = trust.ReadFile(o.Settings, maxFile); err != nil {
			return f, fail(StepSettings, "", "cannot read the settings: %s", err)
		}
	}
	return f, nil
}

// readFiles reads the configuration, and what it imports or is generated from. All paths are below root, which is / except in tests.
func (f *Facts) readFiles(root string) *Failure {
	f.Files, f.Dirs = map[string][]byte{}, map[string]bool{}
	dir := filepath.Dir(f.Config)
	paths := []string{f.Config}
	for _, name := range []string{rancherTemplate, rancherTemplate3, microK8sTemplate} {
		paths = append(paths, filepath.Join(dir, name))
	}
	patterns := []string{filepath.Join(dir, "conf.d", "*.toml"), filepath.Join(dir, "containerd.d", "*.toml")}
	text, err := trust.ReadFile(filepath.Join(root, f.Config), maxFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(StepConfig, "", "cannot read %s: %s. Nothing is changed.", f.Config, err)
	}
	if own, err := withoutBlock(text); err == nil {
		if config, err := parse(own); err == nil {
			for _, pattern := range config.imports {
				if !filepath.IsAbs(pattern) {
					pattern = filepath.Join(dir, pattern)
				}
				patterns = append(patterns, pattern)
			}
		}
	}
	for _, pattern := range patterns {
		if info, err := os.Stat(filepath.Join(root, filepath.Dir(pattern))); err == nil && info.IsDir() {
			f.Dirs[filepath.Dir(pattern)] = true
		}
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			continue // containerd refuses it
		}
		for _, path := range found {
			paths = append(paths, filepath.Join("/", strings.TrimPrefix(path, filepath.Clean(root))))
		}
	}
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		text, err := trust.ReadFile(filepath.Join(root, path), maxFile)
		switch {
		case err == nil:
			f.Files[path] = text
		case !errors.Is(err, fs.ErrNotExist):
			return fail(StepConfig, "", "cannot read %s: %s. Nothing is changed.", path, err)
		}
	}
	return nil
}

// readSystem looks for the signs of distributions.
func (f *Facts) readSystem(root string) {
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		return err == nil
	}
	f.Nodeadm = exists("/usr/bin/nodeadm") || exists("/etc/eks/nodeadm.d")
	f.Azure = exists("/etc/kubernetes/azure.json")
	f.Kubelet = exists("/var/lib/kubelet/config.yaml") || exists("/etc/kubernetes/kubelet.conf")
	if text, err := trust.ReadFile(filepath.Join(root, "/etc/os-release"), maxFile); err == nil {
		f.System = idOf(text)
	}
}

// idOf returns ID of os-release(5).
func idOf(text []byte) string {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if id, ok := strings.CutPrefix(lines.Text(), "ID="); ok {
			return strings.Trim(id, `"'`)
		}
	}
	return ""
}

// places are the directories for programs, in order of preference: /opt/containerd/bin is that of `ctr install`, and
// /home/kubernetes/bin the only one on GKE's Container-Optimized OS in which programs can be executed.
var places = []string{"/usr/local/bin", "/opt/containerd/bin", "/home/kubernetes/bin"}

// readPrograms looks for the programs, and for where they can go.
func (f *Facts) readPrograms(o Options) {
	f.Bin = o.Bin
	if f.Bin == "" {
		f.Bin = ownDirectory()
	}
	for _, name := range programs {
		if info, err := os.Stat(filepath.Join(f.Bin, name)); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			f.Missing = append(f.Missing, name)
		}
	}
	if o.Prefix == "" {
		for _, dir := range places {
			f.Places = append(f.Places, lookAtPlace(dir))
		}
	}
}

// ownDirectory returns the directory of this program. In a container's program that runs in the node's mount namespace, the kernel's
// name of it would be another file, so the path by which it was started counts first.
func ownDirectory() string {
	if filepath.IsAbs(os.Args[0]) && sameFile(os.Args[0], "/proc/self/exe") {
		return filepath.Dir(os.Args[0])
	}
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Dir(self)
}

// lookAtPlace asks the file system of a directory, or of the nearest one above it that exists.
func lookAtPlace(dir string) Place {
	place := Place{Dir: dir, Trusted: trust.Place(filepath.Join(resolve(dir), shimName)) == nil}
	for at := dir; ; at = filepath.Dir(at) {
		var found unix.Statfs_t
		err := unix.Statfs(at, &found)
		if errors.Is(err, unix.ENOENT) && at != "/" {
			continue
		}
		place.Writable = err == nil && found.Flags&unix.ST_RDONLY == 0 && unix.Access(at, unix.W_OK) == nil
		place.Exec = err == nil && found.Flags&unix.ST_NOEXEC == 0
		return place
	}
}

// checkOptions refuses options that cannot be used.
func checkOptions(o Options) *Failure {
	for flag, path := range map[string]string{"--prefix": o.Prefix, "--config": o.Config} {
		if path != "" && !filepath.IsAbs(path) {
			return fail(StepOptions, "", "--prefix and --config must be absolute paths: %s is %q", flag, path)
		}
	}
	if strings.ContainsAny(o.Prefix, "'\n\r\t") {
		return fail(StepOptions, "", "--prefix %q has a quote or a control character, which containerd's configuration cannot have in a path", o.Prefix)
	}
	switch o.CgroupDriver {
	case "", cgroupfs, systemd:
	default:
		return fail(StepOptions, "", "--cgroup-driver %s is not known: use cgroupfs or systemd", o.CgroupDriver)
	}
	switch o.Restart {
	case RestartNone, RestartSystemd, RestartTerminate:
	default:
		return fail(StepOptions, "", "--restart-by %s is not known: use systemd, terminate or none", o.Restart)
	}
	if os.Geteuid() != 0 {
		return fail(StepOptions, "", "cannot change the node: run it as root")
	}
	return nil
}

// stateDir is where the journal is.
func stateDir(o Options) string {
	if o.Prefix == "" {
		return "/var/lib/lifecycle-shim"
	}
	return filepath.Join(o.Prefix, "lib/lifecycle-shim")
}

// legacyMark is what the installer of earlier builds left beside the programs that it had copied.
const legacyMark = "installed-by-node-install"

// legacyDir is where that installer left it.
func legacyDir(o Options) string {
	prefix := o.Prefix
	if prefix == "" {
		prefix = "/usr/local"
	}
	return filepath.Join(prefix, "lib/lifecycle-shim")
}
