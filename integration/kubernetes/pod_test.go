package kubernetes

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// work is where a pod's directory of the host is mounted, and the working directory of its containers and handlers.
const work = "/work"

// pod is one under test, in the namespace default.
type pod struct {
	b    *bench
	name string
	dir  string // the host's side of work
}

// entry is the script of most containers: it notes its start, exits with 0 when it gets SIGTERM, and notes that too.
// name comes before what it notes.
func entry(name string) string {
	return "echo " + name + "start >> log; trap 'echo " + name + "TERM >> log; exit 0' TERM; touch /tmp/started; sleep 1000 & while :; do wait; done"
}

var app = entry("")

// waiting begins a handler that reports to the test that it has begun, and waits until it may continue.
const waiting = `echo begun >> log; touch begun; while [ ! -e go ]; do sleep 0.02; done; `

// container of a pod that runs a shell script, with handlers or nil.
func container(name, script string, handlers *core.Lifecycle) core.Container {
	return core.Container{
		Name: name, Image: harness.ImageBusybox, ImagePullPolicy: core.PullNever,
		Command: []string{"/bin/sh", "-c", script}, WorkingDir: work,
		VolumeMounts: []core.VolumeMount{{Name: "work", MountPath: work}}, Lifecycle: handlers,
	}
}

// handlers of shell scripts; an empty one is none. As postStart runs beside the entrypoint, it waits for that to be
// ready for signals: so there is one order in which things are noted.
func handlers(postStart, preStop string) *core.Lifecycle {
	handlers := &core.Lifecycle{}
	if postStart != "" {
		handlers.PostStart = command("/bin/sh", "-c", "while [ ! -e /tmp/started ]; do sleep 0.02; done; "+postStart)
	}
	if preStop != "" {
		handlers.PreStop = command("/bin/sh", "-c", preStop)
	}
	return handlers
}

// create makes a pod of these containers on the node. The policy moves their handlers. edit may be nil. The test's end
// deletes it.
func (b *bench) create(edit func(*core.PodSpec), containers ...core.Container) *pod {
	b.Helper()
	p := b.createAs(nil, edit, containers...)
	p.wantMoved()
	return p
}

// createAs is create of a pod with these annotations, which need not lose all handlers.
func (b *bench) createAs(annotations map[string]string, edit func(*core.PodSpec), containers ...core.Container) *pod {
	b.Helper()
	p := &pod{b: b, name: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(b.Name())), dir: b.TempDir()}
	object := core.Pod{
		TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: meta.ObjectMeta{Name: p.name, Annotations: annotations},
		Spec: core.PodSpec{
			NodeName: cluster.NodeName, RuntimeClassName: ptr(cluster.RuntimeClass), Containers: containers,
			Volumes: []core.Volume{{Name: "work", VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: p.dir}}}},
		},
	}
	if edit != nil {
		edit(&object.Spec)
	}
	manifest, err := json.Marshal(object)
	if err != nil {
		b.Fatal(err)
	}
	b.apply(string(manifest), p)
	return p
}

// wantMoved: the kubelet has no handler to run.
func (p *pod) wantMoved() {
	p.b.Helper()
	spec := p.object().Spec
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		if c.Lifecycle != nil && (c.Lifecycle.PostStart != nil || c.Lifecycle.PreStop != nil) {
			p.b.Fatalf("container %s has its handlers still: %+v", c.Name, c.Lifecycle)
		}
	}
}

// cleanupContext is for what runs when the test's own context has ended.
func cleanupContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}

// apply a manifest of that pod. The test's end deletes it.
func (b *bench) apply(manifest string, p *pod) {
	b.Helper()
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if b.Failed() {
			p.show(ctx)
		}
		if _, err := b.Kubectl(ctx, "delete", "pod", p.name, "--ignore-not-found", "--grace-period=1"); err != nil {
			b.Error(err)
		}
	})
	if err := b.Apply(b.Context(), manifest); err != nil {
		b.Fatal(err)
	}
}

// show what one would look at first when a test has failed.
func (p *pod) show(ctx context.Context) {
	description, err := p.b.Kubectl(ctx, "describe", "pod", p.name)
	p.b.Logf("%s%v", description, err)
	log, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	p.b.Logf("log of the pod's own:\n%s", log)
	var lines []string
	for line := range strings.Lines(p.b.Containerd.Log()) {
		if !strings.Contains(line, "level=debug") && (strings.Contains(line, p.name) || strings.Contains(line, "handler")) {
			lines = append(lines, line)
		}
	}
	p.b.Logf("containerd's log of it and of handlers ends with:\n%s", strings.Join(lines[max(0, len(lines)-40):], ""))
}

func ptr[T any](value T) *T { return &value }

func grace(seconds int64) func(*core.PodSpec) {
	return func(spec *core.PodSpec) { spec.TerminationGracePeriodSeconds = &seconds }
}

func restartPolicy(policy core.RestartPolicy) func(*core.PodSpec) {
	return func(spec *core.PodSpec) { spec.RestartPolicy = policy }
}

// object as the API server has it.
func (p *pod) object() (object core.Pod) {
	p.b.Helper()
	if err := p.b.Get(p.b.Context(), "/api/v1/namespaces/default/pods/"+p.name, &object); err != nil {
		p.b.Fatal(err)
	}
	return object
}

func (p *pod) status() core.PodStatus { return p.object().Status }

// warnings are the messages of its events of that type.
func (p *pod) warnings() string {
	p.b.Helper()
	var events core.EventList
	if err := p.b.Get(p.b.Context(), "/api/v1/namespaces/default/events?fieldSelector=type=Warning,involvedObject.name="+p.name, &events); err != nil {
		p.b.Fatal(err)
	}
	var messages []string
	for _, event := range events.Items {
		messages = append(messages, event.Message)
	}
	return strings.Join(messages, "\n")
}

// ready waits for the condition.
func (p *pod) ready() {
	p.b.Helper()
	p.wait("condition=Ready")
}

// running waits until every container with an entry is ready for signals.
func (p *pod) running() {
	p.b.Helper()
	p.ready()
	p.b.poll("the entrypoint", func() bool {
		_, err := p.b.Kubectl(p.b.Context(), "exec", p.name, "--", "ls", "/tmp/started")
		return err == nil
	})
}

// wait is kubectl wait.
func (p *pod) wait(what string) {
	p.b.Helper()
	p.b.kubectl("wait", "--for="+what, "pod/"+p.name, "--timeout="+limit.String())
}

// delete is kubectl delete, which returns when the pod is gone.
func (p *pod) delete(flags ...string) (took time.Duration) {
	p.b.Helper()
	begin := time.Now()
	p.b.kubectl(append([]string{"delete", "pod", p.name}, flags...)...)
	return time.Since(begin)
}

// deleteLater is delete in the background.
func (p *pod) deleteLater(flags ...string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := p.b.Kubectl(p.b.Context(), append([]string{"delete", "pod", p.name}, flags...)...)
		done <- err
	}()
	return done
}

func (p *pod) deleted(done <-chan error) {
	p.b.Helper()
	select {
	case err := <-done:
		if err != nil {
			p.b.Fatal(err)
		}
	case <-time.After(limit):
		p.b.Fatal("the pod is not deleted")
	}
}

// waitFor a file that something in a container makes.
func (p *pod) waitFor(name string) {
	p.b.Helper()
	p.b.poll("file "+name, func() bool { return p.exists(name) })
}

// touch makes a file that something in a container waits for.
func (p *pod) touch(name string) {
	p.b.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), nil, 0o644); err != nil {
		p.b.Fatal(err)
	}
}

func (p *pod) exists(name string) bool {
	_, err := os.Stat(filepath.Join(p.dir, name))
	return err == nil
}

// written is when a file was written to for the last time.
func (p *pod) written(name string) time.Time {
	p.b.Helper()
	info, err := os.Stat(filepath.Join(p.dir, name))
	if err != nil {
		p.b.Fatal(err)
	}
	return info.ModTime()
}

// log is what containers and handlers have noted, one word a line.
func (p *pod) log() string {
	p.b.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		p.b.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

func (p *pod) wantLog(want string) {
	p.b.Helper()
	if got := p.log(); got != want {
		p.b.Errorf("log %q, want %q", got, want)
	}
}

func (b *bench) poll(what string, done func() bool) {
	b.Helper()
	if err := harness.Poll(b.Context(), limit, what, func() (bool, error) { return done(), nil }); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) wantPart(text string, parts ...string) {
	b.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			b.Errorf("%q is not in:\n%s", part, text)
		}
	}
}
