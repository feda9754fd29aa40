package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"

	core "k8s.io/api/core/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// NodeName is the node's name, and its address: so the API server finds the kubelet, for kubectl exec and logs.
const NodeName = "127.0.0.1"

// RuntimeClass is the name of the runtime handler in containerd, and of the RuntimeClass that deploy/ has for it.
const RuntimeClass = "lifecycle"

// ownerSocket is held by the one cluster with a node that may run: the kubelet sets values of the whole machine,
// and only the first to come would know what they were. It is abstract: it goes with its holder.
const ownerSocket = "@lifecycle-shim-integration-kubernetes"

// Config says what cluster to start.
type Config struct {
	BinDir string // with containerd, runc, the shim, and kubernetes/
	// FeatureGates of the API server and the kubelet, as their flags have them: A=true,B=false.
	FeatureGates string
	// Image is an OCI image layout, a tar file: what every image of docker.io is, such as nginx. Empty: there are none.
	Image string
}

// Cluster is an API server with one node.
type Cluster struct {
	*API
	Containerd *harness.Daemon
	Kubelet    *harness.Program // Stop and Start restart it

	lock     net.Listener
	registry *httptest.Server // of Config.Image; nil: none
}

// Start returns when the node is Ready and has the images that harness.CRI knows. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	lock, err := net.Listen("unix", ownerSocket)
	if err != nil {
		return nil, fmt.Errorf("another cluster with a node runs on this machine, wait for its end: %w", err)
	}
	api, err := StartAPI(ctx, cfg.BinDir, "--feature-gates="+cfg.FeatureGates)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	c := &Cluster{API: api, lock: lock}
	for _, step := range []func(context.Context, Config) error{c.startContainerd, c.startKubelet, c.waitNode} {
		if err := step(ctx, cfg); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// CgroupRoot is the cgroup below which all pods are.
func (c *Cluster) CgroupRoot() string { return cgroupRoot(c.Dir) }

func cgroupRoot(dir string) string { return "/" + filepath.Base(dir) }

func (c *Cluster) startContainerd(ctx context.Context, cfg Config) (err error) {
	if err := c.startRegistry(cfg.Image); err != nil {
		return err
	}
	servers := harness.Servers(cfg.BinDir)
	if len(servers) == 0 || !servers[0].Modern() {
		return fmt.Errorf("%s has no containerd 2.x: run `make servers`", cfg.BinDir)
	}
	c.Containerd, err = harness.StartDaemon(ctx, harness.DaemonConfig{
		Server: servers[0], BinDir: cfg.BinDir, Debug: true, CRI: true,
		Handlers: map[string]harness.RuntimeHandler{
			RuntimeClass: {Type: "io.containerd.lifecycle.v2"},
			"runc":       {Type: harness.StockRuntime},
		},
		ExtraConfig: fmt.Sprintf("[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = %q\n", c.path(registries)),
	})
	if err != nil {
		return err
	}
	cri, err := c.Containerd.CRI()
	if err != nil {
		return err
	}
	return cri.ImportImages(ctx, harness.ImageBusybox, harness.ImageBusyboxQuit)
}

func (c *Cluster) startKubelet(_ context.Context, cfg Config) error {
	if err := noteMachine(c.Dir); err != nil {
		return err
	}
	if err := harness.MakeCgroupParent(c.CgroupRoot()); err != nil {
		return err
	}
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	config := fmt.Sprintf(kubeletConfig, ports[0], c.Containerd.Address, c.CgroupRoot(), c.path("pods"), c.path("plugins"))
	if err := writeFile(c.path("kubelet.yaml"), config); err != nil {
		return err
	}
	kubelet := c.Program("kubelet", "--config="+c.path("kubelet.yaml"), "--kubeconfig="+c.Kubeconfig,
		"--root-dir="+c.path("kubelet"), "--cert-dir="+c.path("kubelet-certs"), "--hostname-override="+NodeName,
		"--feature-gates="+cfg.FeatureGates, "--v=2")
	c.Kubelet = &kubelet
	return c.Kubelet.Start()
}

// kubeletConfig: on the loopback anybody may ask it, and it does nothing to the machine that a configuration can keep it
// from. What it does all the same is in machine.go.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: %d
healthzPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://%s
cgroupRoot: %s
cgroupDriver: cgroupfs
podLogsDir: %s
volumePluginDir: %s
runtimeRequestTimeout: 1m            # half of the default, as a test waits for its end
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0                       # a machine without CAP_SYS_RESOURCE could not set less than it has
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false # else it insists on disk quota statistics of its folder
resolvConf: ""
clusterDNS: [127.0.0.1]              # unused: without one each pod would get a warning
imageGCHighThresholdPercent: 100     # never: the images could not be pulled again
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
`

func (c *Cluster) waitNode(ctx context.Context, _ Config) error {
	err := harness.Poll(ctx, readyLimit, "the node to be Ready", func() (bool, error) {
		if err := c.Kubelet.Ended(); err != nil {
			return false, err
		}
		var node core.Node
		if err := c.Get(ctx, "/api/v1/nodes/"+NodeName, &node); err != nil {
			return false, nil //nolint:nilerr // not registered yet
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == core.NodeReady {
				return condition.Status == core.ConditionTrue, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("%w\nkubelet:\n%s", err, tail(c.Kubelet.Log()))
	}
	return nil
}

// Close ends the cluster with all its pods, and takes back what it has changed. A second Close does nothing.
func (c *Cluster) Close() error {
	var errs []error
	if c.Kubelet != nil {
		errs = append(errs, c.Kubelet.Stop(syscall.SIGKILL)) // first, or it would start again what ends
	}
	if c.Containerd != nil {
		errs = append(errs, c.Containerd.Close())
	}
	errs = append(errs, c.API.Close())
	if c.registry != nil {
		c.registry.Close()
		c.registry = nil
	}
	if c.lock != nil {
		errs = append(errs, c.lock.Close())
		c.lock = nil
	}
	return errors.Join(errs...)
}

func writeFile(path, content string) error {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o644)
	}
	if err != nil {
		return fmt.Errorf("files of the cluster: %w", err)
	}
	return nil
}
