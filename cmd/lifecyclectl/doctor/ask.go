package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	version "github.com/containerd/containerd/api/services/version/v1"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
)

// server is a trusted process that listens on a socket.
type server struct {
	process *trust.Process
	address string
}

// ask connects to the socket and calls questions.
func (s server) ask(ctx context.Context, questions func(context.Context, *grpc.ClientConn) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	conn, err := s.process.Client(s.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := questions(ctx, conn); err != nil {
		return errors.New(status.Convert(err).Message())
	}
	return nil
}

// version also shows that the server is a containerd.
func (s server) version(ctx context.Context) (string, error) {
	answer := ""
	err := s.ask(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		response, err := version.NewVersionClient(conn).Version(ctx, &emptypb.Empty{})
		// For example v1.6.20~ds1 (Debian), 2.4.2+unknown, or empty.
		answer = strings.TrimPrefix(response.GetVersion(), "v")
		return err
	})
	return answer, err
}

// cri asks the CRI plugin for the configuration that it uses.
func (s server) cri(ctx context.Context) (found *CRI, failure string) {
	err := s.ask(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		client := cri.NewRuntimeServiceClient(conn)
		response, err := client.Status(ctx, &cri.StatusRequest{Verbose: true})
		if err != nil {
			return err
		}
		if found, err = parseStatus(response.Info["config"]); err != nil {
			return err
		}
		driver, err := client.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{}) // containerd 1.x does not have this call
		if err == nil && driver.GetLinux() != nil {
			found.CgroupDriver = strings.ToLower(driver.Linux.CgroupDriver.String())
		}
		return nil
	})
	if err != nil {
		return nil, err.Error()
	}
	return found, ""
}

// parseStatus parses the configuration in CRI's verbose status: JSON, in the same form in 1.6, 1.7 and 2.x.
func parseStatus(text string) (*CRI, error) {
	var config struct {
		Containerd struct {
			Runtimes map[string]struct {
				RuntimeType, RuntimePath             string
				PodAnnotations, ContainerAnnotations []string
				Options                              map[string]any
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return nil, fmt.Errorf("cannot read CRI's configuration: %w", err)
	}
	found := &CRI{Runtimes: map[string]Runtime{}}
	for name, r := range config.Containerd.Runtimes {
		found.Runtimes[name] = Runtime{r.RuntimeType, r.RuntimePath, r.PodAnnotations, r.ContainerAnnotations, r.Options}
	}
	return found, nil
}

// The sections of containerd's configuration that hold CRI's runtimes: of versions 2, and 3 and 4.
const (
	oldCRI = "io.containerd.grpc.v1.cri"
	newCRI = "io.containerd.cri.v1.runtime"
)

// parseDump parses the output of `containerd config dump`.
func parseDump(text []byte) (found *CRI, disabled bool, err error) {
	var config struct {
		DisabledPlugins []string `toml:"disabled_plugins"`
		Plugins         map[string]any
	}
	if err := toml.Unmarshal(text, &config); err != nil {
		return nil, false, fmt.Errorf("cannot read the output of containerd config dump: %w", err)
	}
	found = &CRI{Runtimes: map[string]Runtime{}}
	for _, section := range []string{oldCRI, newCRI} {
		containerd, _ := table(config.Plugins[section])["containerd"]
		runtimes, _ := table(containerd)["runtimes"]
		for name, value := range table(runtimes) {
			r := table(value)
			runtimeType, _ := r["runtime_type"].(string)
			path, _ := r["runtime_path"].(string)
			found.Runtimes[name] = Runtime{runtimeType, path, texts(r["pod_annotations"]), texts(r["container_annotations"]), table(r["options"])}
		}
	}
	disabled = slices.Contains(config.DisabledPlugins, oldCRI) || slices.Contains(config.DisabledPlugins, newCRI)
	return found, disabled, nil
}

// table returns nil, which can be read like an empty table, if the value is not a table.
func table(value any) map[string]any {
	t, _ := value.(map[string]any)
	return t
}

func texts(value any) []string {
	var found []string
	list, _ := value.([]any)
	for _, one := range list {
		if text, ok := one.(string); ok {
			found = append(found, text)
		}
	}
	return found
}
