package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kubectl runs kubectl as the administrator, and returns what it prints. Its error has what it complains of.
func (a *API) Kubectl(ctx context.Context, args ...string) (string, error) {
	return a.kubectl(ctx, "", args...)
}

// Apply is kubectl apply -f - with that manifest.
func (a *API) Apply(ctx context.Context, manifest string) error {
	_, err := a.kubectl(ctx, manifest, "apply", "-f", "-")
	return err
}

// Delete is kubectl delete -f - with that manifest: it waits for the end of what it deletes.
func (a *API) Delete(ctx context.Context, manifest string) (string, error) {
	return a.kubectl(ctx, manifest, "delete", "-f", "-")
}

// Bind puts a pod of the namespace default that names no node on ours: the scheduler's part.
func (a *API) Bind(ctx context.Context, pod string) error {
	binding := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Binding", "metadata": {"name": %q}, "target": {"kind": "Node", "name": %q}}`, pod, NodeName)
	_, err := a.kubectl(ctx, binding, "create", "--raw", "/api/v1/namespaces/default/pods/"+pod+"/binding", "-f", "-")
	return err
}

func (a *API) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	command := a.place.command(filepath.Join(a.bin, "kubectl"), args...)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = a.environ()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
