package doctor

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
)

// containerdNames match the programs that may be a containerd. k3s and rke2 are programs
// with many names each, and some nodes have several versions of containerd.
var containerdNames = regexp.MustCompile(`^(containerd(-[0-9].*)?|k3s|rke2)$`)

// defaultConfig is the file that containerd reads by default.
const defaultConfig = "/etc/containerd/config.toml"

// Daemon is a running containerd of this node.
type Daemon struct {
	PID             int
	Program, Config string
}

// Daemons returns the running containerds, including those that do not answer. Execute a
// Program only if trust.Program accepts it.
func Daemons() ([]Daemon, error) {
	processes, err := trust.FindRoots(containerdNames.MatchString)
	if err != nil {
		return nil, err
	}
	var found []Daemon
	for _, process := range processes {
		// k3s and rke2 act on the name in their first argument.
		if !strings.HasPrefix(filepath.Base(process.Executable), "containerd") && filepath.Base(process.Args[0]) != "containerd" {
			continue
		}
		if config, ok := configOf(process); ok {
			found = append(found, Daemon{process.PID, process.Executable, config})
		}
	}
	return found, nil
}

// containerdValues are containerd's flags that have a value. All others are switches.
var containerdValues = []string{"a", "address", "c", "config", "l", "log-level", "root", "state"}

// configOf returns the path of the configuration that a containerd process reads. It returns
// false if the process is not a daemon, such as `containerd config dump`.
func configOf(process *trust.Process) (string, bool) {
	config := defaultConfig
	args := process.Args[1:]
	for len(args) > 0 {
		if !strings.HasPrefix(args[0], "-") {
			return "", false
		}
		name, value, joined := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
		args = args[1:]
		if !joined && slices.Contains(containerdValues, name) {
			if len(args) == 0 {
				return "", false // containerd refuses it
			}
			value, args = args[0], args[1:]
		}
		if name == "c" || name == "config" {
			config = value
		}
	}
	if !filepath.IsAbs(config) {
		config = filepath.Join(process.Dir, config)
	}
	return config, true
}
