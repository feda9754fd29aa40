package harness

import (
	"context"
	"fmt"
	"maps"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criNamespace is the namespace in which CRI makes its containers.
const criNamespace = "k8s.io"

// WorkDir is where PodContainerConfig.Dir is mounted, and the working directory of the container and so of
// its handlers.
const WorkDir = "/work"

// CRI speaks to the daemon's CRI plugin, as the kubelet does. Its methods, and those of what it makes, are
// one call each, with nothing added or repeated. It is safe for concurrent use.
type CRI struct {
	client  *Client
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
}

// CRI connects to the daemon's CRI plugin. Daemon.Close closes the connection, if Close has not.
func (d *Daemon) CRI() (*CRI, error) {
	client, err := d.Client(criNamespace)
	if err != nil {
		return nil, err
	}
	conn := client.Conn().(grpc.ClientConnInterface) // it returns any, and has nothing else
	return &CRI{client: client, runtime: cri.NewRuntimeServiceClient(conn), images: cri.NewImageServiceClient(conn)}, nil
}

// Client is for what CRI does not tell: tasks and events.
func (c *CRI) Client() *Client { return c.client }

// Close ends the connection, and with it the calls under way.
func (c *CRI) Close() error { return c.client.Close() }

// PodConfig says what pod to run. Name is required.
type PodConfig struct {
	Name         string
	Handler      string // runtime handler
	Annotations  map[string]string
	CgroupParent string
	HostNetwork  bool // else its own, see Daemon.PodBridge
	SharedPID    bool // all containers in one pid namespace
	// UserNamespace maps the pod's users to the host's from 1000000 on.
	UserNamespace bool
	// LogDirectory of the host, for its containers' logs; empty: they have none.
	LogDirectory string
}

// Info is what the CRI plugin says of itself beside its state: texts of JSON by name, its configuration among them.
func (c *CRI) Info(ctx context.Context) (map[string]string, error) {
	status, err := c.runtime.Status(ctx, &cri.StatusRequest{Verbose: true})
	return status.GetInfo(), native(err)
}

// Features returns what CRI reports of each runtime handler to the kubelet. It is nil for a handler whose shim could not be asked.
func (c *CRI) Features(ctx context.Context) (map[string]*cri.RuntimeHandlerFeatures, error) {
	status, err := c.runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return nil, native(err)
	}
	features := map[string]*cri.RuntimeHandlerFeatures{}
	for _, handler := range status.GetRuntimeHandlers() {
		features[handler.GetName()] = handler.GetFeatures()
	}
	return features, nil
}

// Pod is a running pod, or the rest of one.
type Pod struct {
	ID     string
	cri    *CRI
	config *cri.PodSandboxConfig
}

// RunPod runs a pod without containers.
func (c *CRI) RunPod(ctx context.Context, cfg PodConfig) (*Pod, error) {
	config := &cri.PodSandboxConfig{
		Metadata:    &cri.PodSandboxMetadata{Name: cfg.Name, Namespace: "default", Uid: cfg.Name},
		Annotations: cfg.Annotations, LogDirectory: cfg.LogDirectory,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    cfg.CgroupParent,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: cfg.namespaces()},
		},
	}
	if !cfg.HostNetwork {
		config.Hostname = "pod"
	}
	pod, err := c.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: cfg.Handler})
	c.client.daemon.sockets.note(c.client.daemon.Address, criNamespace, pod.GetPodSandboxId())
	return &Pod{ID: pod.GetPodSandboxId(), cri: c, config: config}, native(err)
}

func (c PodConfig) namespaces() *cri.NamespaceOption {
	options := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	if c.HostNetwork {
		options.Network = cri.NamespaceMode_NODE
	}
	if c.SharedPID {
		options.Pid = cri.NamespaceMode_POD
	}
	if c.UserNamespace {
		ids := []*cri.IDMapping{{HostId: 1000000, ContainerId: 0, Length: 65536}}
		options.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	}
	return options
}

// Addresses are the pod's, IPv4 first; none on the host's network.
func (p *Pod) Addresses(ctx context.Context) ([]string, error) {
	status, err := p.cri.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.ID})
	network := status.GetStatus().GetNetwork()
	if err != nil || network.GetIp() == "" {
		return nil, native(err)
	}
	addresses := []string{network.Ip}
	for _, more := range network.AdditionalIps {
		addresses = append(addresses, more.Ip)
	}
	return addresses, nil
}

// State is the pod's, as the kubelet sees it.
func (p *Pod) State(ctx context.Context) (cri.PodSandboxState, error) {
	status, err := p.cri.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.ID})
	return status.GetStatus().GetState(), native(err)
}

// Stop ends the pod's containers and takes its network down.
func (p *Pod) Stop(ctx context.Context) (took time.Duration, err error) {
	begin := time.Now()
	_, err = p.cri.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.ID})
	return time.Since(begin), native(err)
}

// Remove takes the pod and its containers away in any state.
func (p *Pod) Remove(ctx context.Context) error {
	_, err := p.cri.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.ID})
	return native(err)
}

// PodContainerConfig says what container to make in a pod. Name is required.
type PodContainerConfig struct {
	Name        string
	Image       string   // empty: ImageBusybox
	Args        []string // empty: the image's
	Annotations map[string]string
	Dir         string // of the host, mounted at WorkDir; empty: none
	// StopSignal as a pod's spec names it: it comes before the image's.
	StopSignal cri.Signal
	LogPath    string // below the pod's LogDirectory
	Terminal   bool
	// MemoryLimit in bytes, of memory and swap together; 0: none.
	MemoryLimit int64
}

// PodContainer is a container in a pod.
type PodContainer struct {
	ID  string
	cri *CRI
}

// Create makes a container; containerd does not call the shim for that.
func (p *Pod) Create(ctx context.Context, cfg PodContainerConfig) (*PodContainer, error) {
	if cfg.Image == "" {
		cfg.Image = ImageBusybox
	}
	config := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: cfg.Name},
		Image:       &cri.ImageSpec{Image: cfg.Image},
		Command:     cfg.Args,
		Annotations: maps.Clone(cfg.Annotations),
		StopSignal:  cfg.StopSignal,
		LogPath:     cfg.LogPath,
		Tty:         cfg.Terminal,
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
		}},
	}
	if cfg.MemoryLimit > 0 {
		config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: cfg.MemoryLimit, MemorySwapLimitInBytes: cfg.MemoryLimit}
	}
	if cfg.Dir != "" {
		config.WorkingDir = WorkDir
		config.Mounts = []*cri.Mount{{ContainerPath: WorkDir, HostPath: cfg.Dir}}
	}
	made, err := p.cri.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.ID, Config: config, SandboxConfig: p.config})
	return &PodContainer{ID: made.GetContainerId(), cri: p.cri}, native(err)
}

// Through is the same container, seen through another connection.
func (c *PodContainer) Through(other *CRI) *PodContainer { return &PodContainer{ID: c.ID, cri: other} }

// Start creates the task and starts it.
func (c *PodContainer) Start(ctx context.Context) (took time.Duration, err error) {
	begin := time.Now()
	_, err = c.cri.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ID})
	return time.Since(begin), native(err)
}

// Stop sends the stop signal, and SIGKILL after timeout, which is whole seconds; 0 sends SIGKILL alone. It
// returns when the container has exited.
func (c *PodContainer) Stop(ctx context.Context, timeout time.Duration) (took time.Duration, err error) {
	begin := time.Now()
	request := &cri.StopContainerRequest{ContainerId: c.ID, Timeout: int64(timeout / time.Second)}
	_, err = c.cri.runtime.StopContainer(ctx, request)
	return time.Since(begin), native(err)
}

// Status is what the kubelet sees.
func (c *PodContainer) Status(ctx context.Context) (*cri.ContainerStatus, error) {
	response, err := c.cri.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.ID})
	return response.GetStatus(), native(err)
}

// Exec runs a command in the container, and returns its exit status and its output, stdout first.
func (c *PodContainer) Exec(ctx context.Context, args ...string) (status int32, output string, err error) {
	response, err := c.cri.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: c.ID, Cmd: args})
	return response.GetExitCode(), fmt.Sprintf("%s%s", response.GetStdout(), response.GetStderr()), native(err)
}

// Remove takes the container away; one that runs is killed.
func (c *PodContainer) Remove(ctx context.Context) error {
	_, err := c.cri.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: c.ID})
	return native(err)
}

// Task is the container's task, past CRI. The fields that only Client.NewContainer knows are empty.
func (c *PodContainer) Task() *Container { return &Container{ID: c.ID, client: c.cri.client} }
