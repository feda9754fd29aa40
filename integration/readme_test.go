package integration

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The CRI plugin understands the configuration that the README gives.
func TestREADMEConfiguresCRI(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```toml\n[plugins.")
	config, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the README has no configuration of containerd")
	}
	daemon, err := harness.StartDaemon(t.Context(), harness.DaemonConfig{
		Server: harness.Servers(binDir(t))[0], BinDir: binDir(t), CRI: true, ExtraConfig: "[plugins." + config,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.Close(); err != nil {
			t.Error(err)
		}
	})
	if handlers := runtimeHandlers(t, daemon); !slices.Contains(handlers, "lifecycle") {
		t.Errorf("runtime handlers %v, want lifecycle among them", handlers)
	}
}

func runtimeHandlers(t *testing.T, daemon *harness.Daemon) []string {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+daemon.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	status, err := cri.NewRuntimeServiceClient(conn).Status(ctx, &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, handler := range status.RuntimeHandlers {
		names = append(names, handler.Name)
	}
	return names
}
