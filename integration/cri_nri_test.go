package integration

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plugin is an NRI plugin that notes what it is told.
type plugin struct {
	mu           sync.Mutex
	calls        map[string][]string // by container
	synchronized chan struct{}
}

// connect registers the plugin, and ends it with the test.
func (b *podBench) connect(index string) *plugin {
	b.Helper()
	p := &plugin{calls: map[string][]string{}, synchronized: make(chan struct{})}
	connection, err := stub.New(p, stub.WithPluginName("lifecycle-test"), stub.WithPluginIdx(index), stub.WithSocketPath(b.daemon.NRIAddress()))
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

func (p *plugin) of(id string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls[id])
}

// isSynchronized tells whether containerd has taken the plugin in.
func (p *plugin) isSynchronized() bool {
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

// docs/spec.md#nri: a plugin sees the held start begin and end, and the stop of one that
// has failed. One that registers during the hold is taken in after it, as is a start
// that waits behind it.
func TestCRINRIPlugin(t *testing.T) {
	b := onOwnCRI(t)
	early := b.connect("10")
	poll(b.T, "the plugin's synchronization", early.isSynchronized)
	pod := b.pod(with{
		"held." + keyLifecycle:    "{postStart: {" + shell(waiting) + "}}",
		"failing." + keyLifecycle: "{postStart: {" + shell("exit 1") + "}}",
	})
	held, failing, other := b.create(pod, obedient, named("held")), b.create(pod, obedient, named("failing")), b.create(pod, obedient, named("other"))

	result := held.hold()
	if got := early.of(held.ID); !slices.Equal(got, []string{"start"}) {
		b.Errorf("during the hold the plugin was told %q, want the start alone", got)
	}
	late := b.connect("20")
	behind := other.startLater(b.Context())
	poll(b.T, "the task of the start behind it", func() bool { _, err := other.Task().State(b.Context()); return err == nil })
	if late.isSynchronized() {
		b.Error("containerd has taken in a plugin during a held start")
	}
	held.touch("go")
	if r := answer(b.T, result); r.err != nil {
		b.Fatal(r.err)
	}
	if r := answer(b.T, behind); r.err != nil {
		b.Fatal(r.err)
	}
	poll(b.T, "the late plugin's synchronization", late.isSynchronized)

	_, err := failing.Start(b.Context())
	failing.wantFailedStart(err, "postStart handler failed: exit status 1")
	held.waitFor("ready")
	held.stop(60 * time.Second)
	held.wantExit(7)
	other.wantState(cri.ContainerState_CONTAINER_RUNNING)
	for c, want := range map[*podContainer][]string{
		held: {"start", "started", "stop"}, failing: {"start", "stop"}, other: {"start", "started"},
	} {
		poll(b.T, "the plugin's calls", func() bool { return len(early.of(c.ID)) >= len(want) })
		if got := early.of(c.ID); !slices.Equal(got, want) {
			b.Errorf("the plugin was told %q, want %q", got, want)
		}
	}
}
