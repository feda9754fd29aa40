// Package boot makes a node of a fleet out of a process: the process joins its cgroups, gets its own network interface, gets a root
// filesystem in which it may write everywhere and changes nothing of the machine, and becomes systemd or a small supervisor.
//
// It is for one program, testnode, which `unshare` has started as the first of a pid namespace, in its own mount, UTS and IPC
// namespaces, and `nsenter` in the network namespace that has the bridge.
package boot

import (
	"encoding/json"
	"fmt"
	"os"
)

// Config says what node to make. The paths are the machine's.
type Config struct {
	Name string
	Dir  string // exists; the root filesystem is mounted below it
	// Layers are directories that lie above the machine's root, the upper one first. Upper and Work are those of an overlay: both on one
	// filesystem, which is not the one of the machine's root.
	Layers      []string
	Upper, Work string
	// Binds are directories by their place on the node, such as /var/lib/containerd: overlays cannot lie on another overlay.
	Binds map[string]string
	// Cgroup exists in each hierarchy, and becomes the root of the node's.
	Cgroup string
	// Bridge is the one to attach to, Address (with a prefix length) the node's, Gateway its way to everything else.
	Bridge, Address, Gateway string
	// Programs run under the supervisor. None: systemd runs, and its units are in the layers.
	Programs []Program
}

// Program is started again whenever it ends, as a supervisor's service.
type Program struct {
	Name string // of its log: /var/log/NAME.log
	Args []string
	Env  []string
}

// ReadConfig reads the file that WriteConfig has written.
func ReadConfig(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// WriteConfig writes it.
func WriteConfig(path string, c *Config) error {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
