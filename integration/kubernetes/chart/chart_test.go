package chart

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

const (
	chartDir  = "../../../deploy/charts/lifecycle-shim"
	release   = "lifecycle-shim"
	namespace = "lifecycle-shim"
	// limit bounds every wait. It is long, because it is only reached by a failure.
	limit = 2 * time.Minute
)

var helms = []string{"helm3", "helm4"}

func binDir() string {
	dir, err := filepath.Abs("../../../bin")
	if err != nil {
		panic(err) // no working directory
	}
	return dir
}

// bench is an API server: no controllers and no nodes.
type bench struct {
	*testing.T
	*cluster.API
}

// start an API server that asks RBAC, as clusters do. flags are further ones for it.
func start(t *testing.T, flags ...string) *bench {
	t.Helper()
	t.Parallel()
	dir, err := cluster.MakeDir()
	if err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 3)
	api, err := cluster.StartAPIAt(t.Context(), binDir(), dir, cluster.Place{
		Address: "127.0.0.1", Port: ports[0], EtcdPort: ports[1], PeerPort: ports[2],
		Flags: append([]string{
			"--authorization-mode=RBAC", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.214.0.0/24", "--allow-privileged=true",
			"--disable-admission-plugins=ServiceAccount", // no controller makes those of each namespace
		}, flags...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{t, api}
}

func freePorts(t *testing.T, count int) []int {
	t.Helper()
	var ports []int
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() // after the last: they differ
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// run a Helm as the administrator. It returns what Helm prints.
func (b *bench) run(helm string, args ...string) (string, error) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 2*limit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, filepath.Join(binDir(), helm), append(args, "--namespace", namespace)...)
	command.Env = []string{"HOME=" + b.Dir, "PATH=/usr/bin:/bin", "KUBECONFIG=" + b.Kubeconfig}
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", helm, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// helm must succeed.
func (b *bench) helm(helm string, args ...string) string {
	b.Helper()
	out, err := b.run(helm, args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// kubectl must succeed.
func (b *bench) kubectl(args ...string) string {
	b.Helper()
	out, err := b.Kubectl(b.Context(), args...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// file with that content.
func (b *bench) file(content string) string {
	b.Helper()
	file, err := os.CreateTemp(b.TempDir(), "*.yaml")
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(content); err != nil {
		b.Fatal(err)
	}
	return file.Name()
}

// ours lists all objects of the release, in all namespaces.
func (b *bench) ours() []string {
	b.Helper()
	kinds := "mutatingadmissionpolicies,mutatingadmissionpolicybindings,validatingadmissionpolicies,validatingadmissionpolicybindings," +
		"mutatingwebhookconfigurations,validatingwebhookconfigurations,runtimeclasses,clusterroles,clusterrolebindings,roles,rolebindings," +
		"serviceaccounts,secrets,configmaps,services,leases,daemonsets,statefulsets,poddisruptionbudgets,jobs,resourcequotas,pods"
	return strings.Fields(b.kubectl("get", kinds, "-A", "-l", "app.kubernetes.io/name=lifecycle-shim", "-o", "name"))
}
