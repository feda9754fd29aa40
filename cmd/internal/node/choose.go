package node

import (
	"fmt"
	"strings"
)

// Daemon is a running containerd.
type Daemon struct {
	PID int
	// Program is the path of its executable, Config the configuration in its arguments, RealConfig the same without links.
	Program, Config, RealConfig string
	// Named is set if its program is the one that the options name.
	Named bool
}

// defaultConfig is the file that containerd reads by default.
const defaultConfig = "/etc/containerd/config.toml"

// ofDocker reports whether a configuration is that of the containerd that dockerd starts.
func ofDocker(config string) bool {
	return strings.HasSuffix(config, "/docker/containerd/containerd.toml")
}

// choice is the containerd to configure.
type choice struct {
	// pid is 0 if it does not run.
	pid int
	// program is empty if it is to be searched for.
	program, config string
}

// choose selects the containerd to configure. config is the option's path without links.
func choose(all []Daemon, o Options, config string) (choice, *Failure) {
	var found []Daemon
	dockers := false
	for _, d := range all {
		switch {
		case o.PID != 0 && d.PID != o.PID, o.Containerd != "" && !d.Named, config != "" && d.RealConfig != config:
		case o.PID == 0 && o.Containerd == "" && config == "" && ofDocker(d.Config):
			dockers = true
		default:
			found = append(found, d)
		}
	}
	if len(found) > 1 && !sameConfig(found) {
		return choice{}, fail(StepContainerd, "", "several containerds run: name one with --pid.%s", listed(found))
	}
	if len(found) > 0 {
		return choice{found[0].PID, found[0].Program, found[0].RealConfig}, nil
	}
	if failure := notFound(all, o, config); failure != nil {
		return choice{}, failure
	}
	if dockers {
		return choice{}, fail(StepContainerd, "",
			"the only containerd that runs is dockerd's own, which needs no configuration: put the programs on its PATH (make install, or the package), see docs/use/ctr-nerdctl-docker.md")
	}
	if config == "" {
		config = defaultConfig
	}
	return choice{0, o.Containerd, config}, nil
}

func notFound(all []Daemon, o Options, config string) *Failure {
	switch {
	case o.PID != 0:
		return fail(StepContainerd, "", "process %d is not a containerd of this node that root started.%s", o.PID, listed(all))
	case len(all) == 0:
	case o.Containerd != "" && config == "":
		return fail(StepContainerd, "", "no process runs %s. If it does not run yet, name its configuration with --config.%s", o.Containerd, listed(all))
	case o.Containerd == "" && config != "":
		return fail(StepContainerd, "", "no running containerd reads %s. If it is for one that does not run, name its program with --containerd.%s", config, listed(all))
	}
	return nil
}

func sameConfig(daemons []Daemon) bool {
	for _, d := range daemons {
		if d.RealConfig != daemons[0].RealConfig {
			return false
		}
	}
	return true
}

// mostListed bounds the list of containerds in an error.
const mostListed = 8

func listed(daemons []Daemon) string {
	if len(daemons) == 0 {
		return ""
	}
	text := " Running:"
	for _, d := range daemons[:min(len(daemons), mostListed)] {
		text += fmt.Sprintf("\n  --pid %d: %s reads %s", d.PID, d.Program, d.Config)
	}
	return text
}
