package installer

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	apps "k8s.io/client-go/kubernetes/typed/apps/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/installer/host"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/installer/turn"
)

// Config of an Installer.
type Config struct {
	Node              string // its name
	Namespace         string // of the DaemonSet and the Leases
	DaemonSet         string
	RuntimeClass      string
	ReadyLabel        string
	StartupTaint      string // key; empty: none
	MaxUnavailable    int    // nodes that change at once
	StopAfterFailures int    // 0: never
	TurnDuration      time.Duration
	Retry             time.Duration // from the first failure to the next try
	Version           string

	Settings  string // file of the image; empty: none
	Prefix    string // of the programs on the node; empty: the engine chooses
	RestartBy string
	Programs  string // directory in the image
	HostPID   int    // a process in the node's namespaces
}

// Check reports what is wrong, before anything is done.
func (c Config) Check() error {
	var errs []error
	bad := func(flag, value, why string) {
		errs = append(errs, fmt.Errorf("--%s %q: %s", flag, value, why))
	}
	for flag, name := range map[string]string{
		"node-name": c.Node, "namespace": c.Namespace, "daemonset": c.DaemonSet, "runtime-class": c.RuntimeClass,
	} {
		if why := validation.IsDNS1123Subdomain(name); len(why) > 0 {
			bad(flag, name, why[0])
		}
	}
	for flag, key := range map[string]string{"ready-label": c.ReadyLabel, "startup-taint": c.StartupTaint} {
		if why := validation.IsQualifiedName(key); len(why) > 0 && (key != "" || flag == "ready-label") {
			bad(flag, key, why[0])
		}
	}
	for flag, file := range map[string]string{"settings": c.Settings, "prefix": c.Prefix, "programs": c.Programs} {
		if file != "" && !path.IsAbs(file) {
			bad(flag, file, "an absolute path is needed")
		}
	}
	if c.RestartBy != "systemd" && c.RestartBy != "terminate" && c.RestartBy != byHand {
		bad("restart-by", c.RestartBy, "use systemd, terminate or none")
	}
	if c.StopAfterFailures < 0 || c.StopAfterFailures > 1000 {
		bad("stop-after-failures", fmt.Sprint(c.StopAfterFailures), "0 (never) to 1000 are possible")
	}
	if c.Retry <= 0 {
		bad("retry", c.Retry.String(), "a positive duration is needed")
	}
	if err := c.turns().Check(); err != nil {
		errs = append(errs, fmt.Errorf("--max-unavailable, --turn-duration: %w", err))
	}
	return errors.Join(errs...)
}

func (c Config) turns() turn.Config {
	return turn.Config{Count: c.MaxUnavailable, Identity: c.Node, Duration: c.TurnDuration}
}

// clients of the API server.
type clients struct {
	core   typed.CoreV1Interface
	apps   apps.AppsV1Interface
	leases coordination.CoordinationV1Interface
}

// newClients share one connection.
func newClients(config *rest.Config) (clients, error) {
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return clients{}, err
	}
	var c clients
	var errs [3]error
	c.core, errs[0] = typed.NewForConfigAndClient(config, transport)
	c.apps, errs[1] = apps.NewForConfigAndClient(config, transport)
	c.leases, errs[2] = coordination.NewForConfigAndClient(config, transport)
	return c, errors.Join(errs[:]...)
}

// New returns an Installer whose configuration is valid, and a function to call after its Run.
func New(ctx context.Context, config Config, server *rest.Config, health *Health) (*Installer, func(), error) {
	c, err := newClients(server)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot connect to the API server: %w", err)
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typed.EventSinkImpl{Interface: c.core.Events("")})
	events := broadcaster.NewRecorder(runtime.NewScheme(), core.EventSource{Component: "lifecycle-installer", Host: config.Node})
	return newInstaller(config, c, host.Host{PID: config.HostPID}, events, health), broadcaster.Shutdown, nil
}

func newInstaller(config Config, c clients, runner runner, events record.EventRecorder, health *Health) *Installer {
	return &Installer{
		config: config,
		cluster: &cluster{
			core: c.core, daemonSets: c.apps.DaemonSets(config.Namespace), daemonSet: config.DaemonSet, class: config.RuntimeClass,
			keys: keys{readyLabel: config.ReadyLabel, startupTaint: config.StartupTaint},
		},
		engine: engine{
			runner: runner, programs: strings.TrimSuffix(config.Programs, "/"), prefix: config.Prefix,
			settings: config.Settings, restart: config.RestartBy,
		},
		turns:  turn.New(c.leases.Leases(config.Namespace), config.turns()),
		events: events,
		health: health,
		retry:  failureBackoff(config.Retry),
		server: serverBackoff(),
		said:   map[string]saying{},
	}
}
