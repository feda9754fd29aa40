package doctor

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/process"
)

// answerWithin bounds each question, to a socket or to a program.
const answerWithin = 5 * time.Second

// Machine is what Gather looks at.
type Machine struct {
	// Address of containerd's socket. Empty: of every containerd that runs.
	Address string
	// Handler is the CRI runtime handler to look for.
	Handler string
	// Version of lifecyclectl.
	Version string
	// Listening returns the unix sockets that the process of a directory of /proc listens on.
	Listening func(dir string) ([]string, error)
	// Shims are the pids of the shims that run, by the address of their containerd.
	Shims map[string][]int
}

// Gather collects the facts. It changes nothing.
func Gather(ctx context.Context, m Machine) Facts {
	facts := Facts{Version: m.Version, Handler: m.Handler, Root: os.Geteuid() == 0}
	if !facts.Root {
		return facts
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		facts.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	_, err := os.Stat("/run/systemd/system") // sd_booted(3)
	facts.SystemdRuns = err == nil
	_, err = os.Stat("/sys/fs/cgroup/cgroup.controllers")
	facts.CgroupV2 = err == nil
	facts.Kubelet = findKubelet()
	addresses := []string{m.Address}
	if m.Address == "" {
		addresses = m.findContainerds(ctx)
	}
	for _, address := range addresses {
		facts.Containerds = append(facts.Containerds, m.look(ctx, address))
	}
	return facts
}

// daemon of /proc.
type daemon struct {
	dir  string
	args []string
}

// processes of the node whose program has one of these names.
func processes(names ...string) []daemon {
	var found []daemon
	paths, _ := filepath.Glob("/proc/[0-9]*") // the pattern is valid
	for _, dir := range paths {
		if args := arguments(dir); len(args) > 0 && slices.Contains(names, filepath.Base(args[0])) && process.OfTheNode(dir) {
			found = append(found, daemon{dir, args})
		}
	}
	return found
}

func arguments(dir string) []string {
	data, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(data) == 0 {
		return nil // it has ended, or is the kernel's
	}
	return strings.Split(string(bytes.TrimSuffix(data, []byte{0})), "\x00")
}

// flagOf returns the value of the first of these flags that is given, with one dash or two, after a space or an equals
// sign.
func flagOf(args []string, names ...string) string {
	for i, arg := range args {
		name, value, joined := strings.Cut(arg, "=")
		if !strings.HasPrefix(name, "-") || !slices.Contains(names, strings.TrimLeft(name, "-")) {
			continue
		}
		if joined {
			return value
		}
		if i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// findContainerds returns the sockets on which a containerd answers.
func (m Machine) findContainerds(ctx context.Context) []string {
	var addresses []string
	for _, daemon := range processes("containerd") {
		sockets, err := m.Listening(daemon.dir)
		if err != nil {
			continue // it has ended
		}
		for _, socket := range sockets {
			if strings.HasSuffix(socket, ".ttrpc") || filepath.Base(socket) == nriSocket || slices.Contains(addresses, socket) {
				continue
			}
			if _, err := askVersion(ctx, socket); err == nil {
				addresses = append(addresses, socket)
			}
		}
	}
	return addresses
}

// nriSocket is the name under which containerd listens for NRI plugins.
const nriSocket = "nri.sock"

// look at one containerd.
func (m Machine) look(ctx context.Context, address string) Containerd {
	c := Containerd{Address: address}
	version, err := askVersion(ctx, address)
	if err == nil {
		c.PID, err = serverOf(address)
	}
	if err != nil {
		c.Err = err.Error()
		return c
	}
	c.Version = version
	root := root{dir: filepath.Join("/proc", strconv.Itoa(c.PID))}
	if !process.OfTheNode(root.dir) { // its programs are going to be run
		return Containerd{Address: address, PID: c.PID, Err: fmt.Sprintf("process %d, which serves it, has not the rights of a containerd on this machine", c.PID)}
	}
	root.path = root.environ("PATH")
	c.Path = root.path
	c.CRI, c.CRIErr = askCRI(ctx, address)
	m.readFiles(ctx, root, &c)
	m.findPrograms(ctx, root, &c)
	if c.Shim.Version != "" { // older builds would take the question for something else
		c.Settings = root.settings(ctx, c.Shim.Path)
	}
	c.NRIPlugins = root.plugins(m.Listening)
	for _, pid := range m.Shims[address] {
		if c.Shim.Path != "" && !sameFile(filepath.Join("/proc", strconv.Itoa(pid), "exe"), root.at(c.Shim.Path)) {
			c.OtherShims = append(c.OtherShims, pid)
		}
	}
	if _, err := os.Stat(root.dir); err != nil { // then nothing of the above is true
		return Containerd{Address: address, Err: "it has ended meanwhile"}
	}
	return c
}

// readFiles asks containerd's own program what its files say.
func (m Machine) readFiles(ctx context.Context, root root, c *Containerd) {
	c.Config = flagOf(arguments(root.dir), "config", "c")
	if c.Config == "" {
		c.Config = "/etc/containerd/config.toml"
	}
	text, err := root.run(ctx, root.exe(), "--config", c.Config, "config", "dump")
	if err != nil {
		c.FileErr = err.Error()
		return
	}
	if c.File, c.CRIDisabled, err = parseDump(text); err != nil {
		c.FileErr = err.Error()
	}
}

// findPrograms looks as containerd and the shim do.
func (m Machine) findPrograms(ctx context.Context, root root, c *Containerd) {
	name, runc := ShimBinary, "runc"
	if c.CRI != nil {
		handler, ok := c.CRI.Runtimes[m.Handler]
		switch {
		case handler.Path != "":
			name = handler.Path
		case filepath.IsAbs(handler.Type):
			name = handler.Type
		}
		if binary, _ := handler.Options["BinaryName"].(string); ok && binary != "" {
			runc = binary
		}
	}
	c.Shim = Program{Name: name, Path: root.lookup(name, filepath.Dir(root.exe()))}
	c.OCIRuntime = Program{Name: runc, Path: root.lookup(runc)}
	if c.Shim.Path != "" {
		c.Host = Program{Name: HostBinary, Path: root.beside(ctx, c.Shim.Path)}
	}
	root.askVersion(ctx, &c.Shim, "-v")
	root.askVersion(ctx, &c.Host, "-v")
	root.askVersion(ctx, &c.OCIRuntime, "--version")
}

// findKubelet returns the cgroup driver of the kubelet that runs, or else of the configuration that kubeadm writes.
func findKubelet() *Kubelet {
	path := "/var/lib/kubelet/config.yaml"
	for _, daemon := range processes("kubelet", "hyperkube") {
		if driver := flagOf(daemon.args, "cgroup-driver"); driver != "" {
			return &Kubelet{CgroupDriver: driver, Source: "the kubelet's --cgroup-driver"}
		}
		if config := flagOf(daemon.args, "config"); config != "" {
			path = filepath.Join(daemon.dir, "root", config)
			if text, err := os.ReadFile(path); err == nil {
				return &Kubelet{CgroupDriver: kubeletDriver(text), Source: config}
			}
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return &Kubelet{CgroupDriver: kubeletDriver(text), Source: path}
}

// kubeletDriver is cgroupfs where a KubeletConfiguration names none: the kubelet's own default.
func kubeletDriver(text []byte) string {
	var config struct {
		CgroupDriver string `json:"cgroupDriver"`
	}
	if yaml.Unmarshal(text, &config) != nil || config.CgroupDriver == "" {
		return cgroupfs
	}
	return config.CgroupDriver
}

func sameFile(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return true // it has ended
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// connected counts the connections to a listening unix socket: the lines of net/unix with its path, but for the one that
// listens itself (__SO_ACCEPTCON).
func connected(table []byte, socket string) int {
	count := 0
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		// Num RefCount Protocol Flags Type St Inode Path
		const flags, path, acceptCon = 3, 7, "00010000"
		fields := strings.Fields(lines.Text())
		if len(fields) > path && fields[path] == socket && fields[flags] != acceptCon {
			count++
		}
	}
	return count
}
