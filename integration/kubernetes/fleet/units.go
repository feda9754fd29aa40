package fleet

import (
	"fmt"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/fleet/boot"
)

// units are the systemd units of the node. Without the default dependencies: what else the machine would start is not the node's.
func (n *Node) units() map[string]string {
	var wants []string
	units := map[string]string{}
	for _, p := range n.programs() {
		name := p.Name + ".service"
		more := ""
		if p.Name == "containerd" {
			more = containerdService
		}
		units[name] = fmt.Sprintf(service, p.Name, strings.Join(p.Args, " "), p.Name, p.Name, more)
		wants = append(wants, name)
	}
	units[boot.Target] = fmt.Sprintf("[Unit]\nDescription=A node\nDefaultDependencies=no\nWants=%s\n", strings.Join(wants, " "))
	// The kernel notifies only the machine's own systemd when a v1 cgroup is empty: this one waits that long whenever runc stops a scope.
	units["../system.conf.d/fleet.conf"] = "[Manager]\nDefaultTimeoutStopSec=1s\n"
	return units
}

const service = `[Unit]
Description=%s
DefaultDependencies=no

[Service]
ExecStart=%s
Restart=always
RestartSec=1
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
StandardOutput=append:/var/log/%s.log
StandardError=append:/var/log/%s.log
%s`

// containerdService is what containerd's own unit has. OOMScoreAdjust needs a right that a machine for tests may not have.
const containerdService = `Type=notify
Delegate=yes
KillMode=process
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStopSec=90
`
