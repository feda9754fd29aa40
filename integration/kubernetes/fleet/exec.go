package fleet

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Exec runs a command as root on the node, in all its namespaces, and returns what it prints.
func (n *Node) Exec(ctx context.Context, args ...string) (string, error) {
	pid, err := n.PID()
	if err != nil {
		return "", err
	}
	enter := []string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}
	cmd := exec.CommandContext(ctx, "/usr/bin/nsenter", append(enter, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("on %s: %s: %w: %s", n.Name, strings.Join(args, " "), err, tail(stderr.String()))
	}
	return stdout.String(), nil
}

// RestartContainerd restarts it in the node's way, and returns when it answers again.
func (n *Node) RestartContainerd(ctx context.Context) error {
	if n.Systemd {
		_, err := n.Exec(ctx, "systemctl", "restart", "containerd")
		return err
	}
	old, err := n.containerd()
	if err != nil {
		return err
	}
	if err := unix.Kill(old, unix.SIGTERM); err != nil {
		return err
	}
	return harness.Poll(ctx, readyLimit, "containerd on "+n.Name, func() (bool, error) {
		now, err := n.containerd()
		if err != nil || now == old {
			return false, nil //nolint:nilerr // between its end and its start
		}
		_, err = n.Exec(ctx, "ctr", "version")
		return err == nil, nil
	})
}

// containerd is its process id.
func (n *Node) containerd() (int, error) {
	first, err := n.PID()
	if err != nil {
		return 0, err
	}
	init, err := harness.ProcessByID(first)
	if err != nil {
		return 0, err
	}
	children, err := init.Children()
	if err != nil {
		return 0, err
	}
	for _, child := range children {
		if child.Comm == "containerd" {
			return child.PID, nil
		}
	}
	return 0, fmt.Errorf("no containerd on node %s", n.Name)
}
