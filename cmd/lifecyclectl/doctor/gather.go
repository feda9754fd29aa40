package doctor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
)

// answerWithin bounds each call to a socket or a program.
const answerWithin = 5 * time.Second

// Machine is what Gather inspects.
type Machine struct {
	// Address of containerd's socket. Empty means every running containerd.
	Address string
	// Handler is the CRI runtime handler to look for.
	Handler string
	// Version of lifecyclectl.
	Version string
	// Shims are the pids of the running shims, by the address of their containerd.
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
		addresses = findContainerds(ctx)
	}
	for _, address := range addresses {
		facts.Containerds = append(facts.Containerds, m.look(ctx, address))
	}
	return facts
}

// findContainerds returns the sockets on which a containerd answers.
func findContainerds(ctx context.Context) []string {
	processes, err := trust.Find(containerdNames.MatchString)
	if err != nil {
		return nil
	}
	sockets, err := trust.ReadSockets()
	if err != nil {
		return nil
	}
	var addresses []string
	for _, process := range processes {
		for _, socket := range served(sockets, process) {
			if slices.Contains(addresses, socket) {
				continue
			}
			if _, err := (server{process, socket}).version(ctx); err == nil {
				addresses = append(addresses, socket)
			}
		}
	}
	return addresses
}

// nriSocket is the name under which containerd listens for NRI plugins.
const nriSocket = "nri.sock"

// look collects the facts about one containerd.
func (m Machine) look(ctx context.Context, address string) Containerd {
	c := Containerd{Address: address}
	process, err := trust.Server(ctx, address)
	if err != nil { // not trusted, so its programs are not run
		c.Err = err.Error()
		return c
	}
	c.PID = process.PID
	server := server{process, address}
	if c.Version, err = server.version(ctx); err != nil {
		c.Err = err.Error()
		return c
	}
	c.Path = process.Getenv("PATH")
	c.CRI, c.CRIErr = server.cri(ctx)
	readFiles(ctx, process, &c)
	m.findPrograms(ctx, process, &c)
	if c.Shim.Version != "" { // builds without a version would misread the argument
		c.Settings = settings(ctx, c.Shim.Path)
	}
	c.NRIPlugins = plugins(process)
	for _, pid := range m.Shims[address] {
		if c.Shim.Path != "" && !sameFile(filepath.Join("/proc", strconv.Itoa(pid), "exe"), c.Shim.Path) {
			c.OtherShims = append(c.OtherShims, pid)
		}
	}
	if _, err := server.version(ctx); err != nil { // the facts above may be of another process
		return Containerd{Address: address, Err: "it exited during the check"}
	}
	return c
}

// readFiles runs containerd's own program to read its configuration files.
func readFiles(ctx context.Context, process *trust.Process, c *Containerd) {
	c.Config, _ = configOf(process) // false for k3s, whose containerd is part of another program
	if c.Config == "" {
		c.Config = defaultConfig
	}
	text, err := run(ctx, process.Executable, "--config", c.Config, "config", "dump")
	if err != nil {
		c.FileErr = err.Error()
		return
	}
	if c.File, c.CRIDisabled, err = parseDump(text); err != nil {
		c.FileErr = err.Error()
	}
}

// findPrograms finds the programs as containerd and the shim do.
func (m Machine) findPrograms(ctx context.Context, process *trust.Process, c *Containerd) {
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
	c.Shim = Program{Name: name, Path: lookup(name, c.Path, filepath.Dir(process.Executable))}
	c.OCIRuntime = Program{Name: runc, Path: lookup(runc, c.Path)}
	if c.Shim.Path != "" {
		c.Host = Program{Name: hostBinary, Path: beside(c.Shim.Path, c.Path)}
	}
	askVersion(ctx, &c.Shim, "-v")
	askVersion(ctx, &c.Host, "-v")
	askVersion(ctx, &c.OCIRuntime, "--version")
}

// maxConfig bounds a configuration, in bytes. Real ones have a few thousand.
const maxConfig = 1 << 20

// findKubelet returns the cgroup driver of the running kubelet, or else the one in the configuration that kubeadm writes.
// It returns nil if that file does not exist or cannot be read.
func findKubelet() *Kubelet {
	path := "/var/lib/kubelet/config.yaml"
	kubelets, _ := trust.Find(func(name string) bool { return name == "kubelet" || name == "hyperkube" }) // on error only the file is used
	for _, kubelet := range kubelets {
		if driver := kubelet.Flag("cgroup-driver"); driver != "" {
			return &Kubelet{CgroupDriver: driver, Source: "the kubelet's --cgroup-driver"}
		}
		if config := kubelet.Flag("config"); config != "" {
			path = config
			break
		}
	}
	text, err := trust.ReadFile(path, maxConfig)
	if err != nil {
		return nil
	}
	return &Kubelet{CgroupDriver: kubeletDriver(text), Source: path}
}

// kubeletDriver returns the driver of a KubeletConfiguration. The kubelet's default is cgroupfs.
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
		return true // the process has exited
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}
