package harness

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

const (
	// cniBinDir is where Debian's containernetworking-plugins are.
	cniBinDir = "/usr/lib/cni"
	// cniCacheDir is where libcni notes what it has set up. containerd's go-cni names no other place. It is the machine's and stays:
	// who removes it when it is empty takes it from below another daemon's libcni, which has just made it.
	cniCacheDir = "/var/lib/cni"
)

// PodBridge is the name of the daemon's pod network and of its bridge: short enough for an interface, and found
// again from the directory alone.
func (d *Daemon) PodBridge() string {
	sum := fnv.New32a()
	sum.Write([]byte(d.Dir))
	return fmt.Sprintf("lcsb%08x", sum.Sum32())
}

func (d *Daemon) cniConfDir() string { return filepath.Join(d.Dir, "cni") }
func (d *Daemon) ipamDir() string    { return filepath.Join(d.Dir, "ipam") }

// writePodNetwork configures the network of pods: a bridge without an address, so that pods reach each other
// and nothing else, and no route, sysctl or packet filter of the host is touched. As each daemon has a bridge
// of their own, their pods may have the same addresses.
func (d *Daemon) writePodNetwork() error {
	text := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [{
  "type": "bridge", "bridge": %q, "isGateway": false, "ipMasq": false,
  "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.213.0.0/16"}], [{"subnet": "fd00:213::/64"}]]}
}]}`, d.PodBridge(), d.PodBridge(), d.ipamDir())
	err := os.MkdirAll(d.cniConfDir(), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(d.cniConfDir(), "pods.conflist"), []byte(text), 0o644)
	}
	if err != nil {
		return fmt.Errorf("configuration of the pod network: %w", err)
	}
	return nil
}

// removePodNetwork removes the bridge, which CNI leaves, and what libcni noted of pods that were never removed.
func (d *Daemon) removePodNetwork() error {
	for _, path := range d.cniResults() {
		_ = os.Remove(path) // gone already: what we want
	}
	bridge, err := netlink.LinkByName(d.PodBridge())
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return nil // no pod had its own network
	}
	if err == nil {
		err = netlink.LinkDel(bridge)
	}
	if err != nil {
		return fmt.Errorf("remove the bridge %s: %w", d.PodBridge(), err)
	}
	return nil
}

func (d *Daemon) cniResults() []string {
	paths, _ := filepath.Glob(filepath.Join(cniCacheDir, "results", d.PodBridge()+"-*")) // the pattern is valid
	return paths
}

// podInterfaces lists the host's ends of the pods' interfaces.
func (d *Daemon) podInterfaces() []string {
	return filesIn(filepath.Join("/sys/class/net", d.PodBridge(), "brif"))
}

// podAddresses lists the files that say which addresses are taken.
func (d *Daemon) podAddresses() []string {
	var taken []string
	for _, path := range filesIn(filepath.Join(d.ipamDir(), d.PodBridge())) {
		if name := filepath.Base(path); name != "lock" && !strings.HasPrefix(name, "last_reserved_ip") {
			taken = append(taken, path)
		}
	}
	return taken
}
