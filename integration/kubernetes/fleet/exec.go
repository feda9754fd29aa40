package fleet

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
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
