package fleet

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	chart     = "../../../deploy/charts/lifecycle-shim"
	namespace = "lifecycle-shim"
	release   = "lifecycle-shim"
)

// helm runs Helm of that major version as the administrator, from the control plane's network.
func (b *bench) helm(ctx context.Context, major string, args ...string) (string, error) {
	command := []string{"--net=" + b.Network.file, filepath.Join(binDir(), "helm"+major), "--namespace=" + namespace}
	cmd := exec.CommandContext(ctx, "/usr/bin/nsenter", append(command, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + b.Dir, "KUBECONFIG=" + b.Kubeconfig}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("helm%s %s: %w: %s", major, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// mustHelm must succeed.
func (b *bench) mustHelm(major string, args ...string) string {
	b.Helper()
	out, err := b.helm(b.Context(), major, args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}
