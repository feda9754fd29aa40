package bed

import (
	"context"
	"slices"
	"sync"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// plugin is an NRI plugin that notes its calls.
type plugin struct {
	mu           sync.Mutex
	calls        map[string][]string // by container
	synchronized chan struct{}
}

// ConnectPlugin registers a plugin, which ends with the test.
func (b *PodBench) ConnectPlugin(index string) *plugin {
	b.Helper()
	p := &plugin{calls: map[string][]string{}, synchronized: make(chan struct{})}
	connection, err := stub.New(p, stub.WithPluginName("lifecycle-test"), stub.WithPluginIdx(index), stub.WithSocketPath(b.Daemon.NRIAddress()))
	if err != nil {
		b.Fatal(err)
	}
	if err := connection.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(connection.Stop)
	return p
}

func (p *plugin) note(c *api.Container, call string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[c.Id] = append(p.calls[c.Id], call)
}

func (p *plugin) Of(id string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls[id])
}

// IsSynchronized reports whether containerd has registered the plugin.
func (p *plugin) IsSynchronized() bool {
	select {
	case <-p.synchronized:
		return true
	default:
		return false
	}
}

func (p *plugin) Synchronize(context.Context, []*api.PodSandbox, []*api.Container) ([]*api.ContainerUpdate, error) {
	close(p.synchronized)
	return nil, nil
}

func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note(c, "start")
	return nil
}

func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note(c, "started")
	return nil
}

func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.note(c, "stop")
	return nil, nil
}
