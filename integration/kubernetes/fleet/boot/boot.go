package boot

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	// Target is the unit that systemd boots.
	Target = "fleet.target"
	// supervise is the argument with which this program runs as the supervisor.
	supervise = "supervise"
	// onNode is where the node has its configuration.
	onNode  = "/run/fleet.json"
	systemd = "/lib/systemd/systemd"
	// nodePath is the PATH of a node's services.
	nodePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Main is the whole program: it returns only on error.
func Main(args []string) error {
	if len(args) > 1 && args[1] == supervise {
		c, err := ReadConfig(onNode)
		if err != nil {
			return err
		}
		return superviseAll(c.Programs)
	}
	if len(args) != 2 {
		return fmt.Errorf("usage: %s CONFIG.json", args[0])
	}
	c, err := ReadConfig(args[1])
	if err != nil {
		return err
	}
	return become(c)
}

// become makes the process the first of a node. Namespaces are the thread's, and exec keeps those of the thread that calls it.
func become(c *Config) error {
	runtime.LockOSThread()
	self, err := os.Open("/proc/self/exe") // the node's root may not have it
	if err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func(*Config) error
	}{
		{"cgroups", joinCgroups},
		{"network", connect},
		{"root filesystem", makeRoot},
		{"host name", func(c *Config) error { return unix.Sethostname([]byte(c.Name)) }},
		{"configuration", func(c *Config) error { return WriteConfig(onNode, c) }},
	} {
		if err := step.do(c); err != nil {
			return fmt.Errorf("%s of node %s: %w", step.what, c.Name, err)
		}
	}
	if len(c.Programs) == 0 {
		env := []string{"container=lifecycle-test", nodePath}
		// The directory in its arguments is what a sweep finds the process by: systemd does not look at its own name.
		return unix.Exec(systemd, []string{c.Dir + "/systemd", "--system", "--unit=" + Target, "--log-target=console", "--show-status=no"}, env)
	}
	return unix.Exec(fmt.Sprintf("/proc/self/fd/%d", self.Fd()), []string{c.Dir + "/testnode", supervise}, []string{nodePath})
}
