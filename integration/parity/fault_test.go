package parity

import (
	"os"
	"path/filepath"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

func hooks(edit func(*specs.Hooks)) func(*harness.ContainerConfig) {
	return edited(func(spec *specs.Spec) {
		spec.Hooks = &specs.Hooks{}
		edit(spec.Hooks)
	})
}

// hook reads what it is sent: a runtime that cannot write it fails in other words, at times.
func hook(status string) []specs.Hook {
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > /dev/null; exit " + status}}}
}

var faultScenarios = []scenario{
	{name: "program that cannot start", about: "no such file, not in PATH, not executable, a directory; no such working directory", program: func(p *program) {
		p.container("missing", []string{"/none"}).live()
		p.container("path", []string{"none"}).live()
		p.container("directory", []string{"/bin"}).live()
		p.container("cwd", obedient, edited(func(spec *specs.Spec) { spec.Process.Cwd = "/none/where" })).live()
		notExecutable := p.container("mode", []string{"/file"})
		notExecutable.touch("file")
		notExecutable.live()
		noFormat := p.container("format", []string{"/file"})
		p.must(os.WriteFile(filepath.Join(noFormat.record.RootFS, "file"), []byte("\x7fELF no more"), 0o755))
		if noFormat.create() {
			if noFormat.start() {
				noFormat.wait()
			}
			noFormat.state()
		}
	}},
	{name: "wrong spec", about: "no process, no root, a root that is not there, a mount of nothing, a namespace of nothing, no arguments", program: func(p *program) {
		p.container("process", obedient, edited(func(spec *specs.Spec) { spec.Process = nil })).live()
		p.container("root", obedient, edited(func(spec *specs.Spec) { spec.Root = nil })).live()
		p.container("args", obedient, edited(func(spec *specs.Spec) { spec.Process.Args = nil })).live()
		p.container("version", obedient, edited(func(spec *specs.Spec) { spec.Version = "" })).live()
		p.container("rootfs", obedient, edited(func(spec *specs.Spec) { spec.Root.Path = "/none/rootfs" })).live()
		p.container("mount", obedient, edited(func(spec *specs.Spec) {
			spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: "/none", Destination: "/mnt", Options: []string{"rbind"}})
		})).live()
		p.container("namespace", obedient, namespace(specs.LinuxNamespace{Type: "nonsense"})).live()
	}},
	{name: "no JSON", about: "a config.json that is none, or has a field of the wrong type", program: func(p *program) {
		for name, spec := range ordered2("brace", "{", "empty", "", "type", `{"ociVersion": 1}`, "linux", `{"ociVersion":"1.0.2","linux":"x"}`, "null", "null", "list", "[]") {
			c := p.container(name, obedient)
			c.setSpec(spec)
			c.create()
			c.state()
		}
	}},
	{name: "hooks", about: "OCI hooks that fail: createRuntime, startContainer, poststart, poststop; and ones that succeed", program: func(p *program) {
		p.container("create-runtime", obedient, hooks(func(h *specs.Hooks) { h.CreateRuntime = hook("1") })).live()
		p.container("start-container", obedient, hooks(func(h *specs.Hooks) { h.StartContainer = hook("1") })).live()
		p.container("post-start", obedient, hooks(func(h *specs.Hooks) { h.Poststart = hook("1") })).live()
		p.container("post-stop", obedient, hooks(func(h *specs.Hooks) { h.Poststop = hook("1") })).live()
		p.container("good", obedient, hooks(func(h *specs.Hooks) {
			h.CreateRuntime, h.Poststart, h.Poststop = hook("0"), hook("0"), hook("0")
		})).live()
	}},
	{name: "OCI runtime that does not work", about: "one that is not there, one that always fails, a root that cannot be", program: func(p *program) {
		p.container("missing", obedient, p.options(func(o *options.Options) { o.BinaryName = "/none/runc" })).live()
		p.container("name", obedient, p.options(func(o *options.Options) { o.BinaryName = "no-such-runc" })).live()
		p.container("false", obedient, p.options(func(o *options.Options) { o.BinaryName = "/bin/false" })).live()
		p.container("root", obedient, p.options(func(o *options.Options) { o.Root = "/proc/none" })).live()
	}},
	{name: "runc's options", about: "ShimCgroup, NoPivotRoot and NoNewKeyring do what they do", program: func(p *program) {
		p.container("keyring", obedient, p.options(func(o *options.Options) { o.NoNewKeyring = true })).live()
		p.container("pivot", obedient, p.options(func(o *options.Options) { o.NoPivotRoot = true })).live()
	}},
	{name: "options of another type", about: "options that are not runc's", ways: []way{bySocket}, program: func(p *program) {
		p.container("empty", obedient, func(config *harness.ContainerConfig) { config.Options = &options.CheckpointOptions{} }).create()
		p.container("wrong", obedient, func(config *harness.ContainerConfig) { config.Options = &options.CheckpointOptions{Exit: true} }).create()
		p.container("generic", obedient, func(config *harness.ContainerConfig) {
			config.Options = &runtimeoptions.Options{ConfigBody: []byte("Nonsense = 1")}
		}).create()
	}},
	{name: "bundles that are none", about: "Create at the shim itself: no directory, no config.json, no JSON in it, no rootfs", ways: []way{bySocket}, program: func(p *program) {
		c := p.run("a", sleeper)
		options, err := typeurl.MarshalAnyToProto(p.world.options())
		p.must(err)
		for name, config := range ordered2("no-config", "", "no-json", "{", "no-rootfs", `{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["/bin/true"],"cwd":"/"},"linux":{}}`) {
			bundle := filepath.Join(p.dir, name)
			p.must(os.Mkdir(bundle, 0o755))
			if config != "" {
				p.must(os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o644))
			}
			for _, o := range []*anypb.Any{options, nil} {
				c.do("Create "+name, &taskapi.CreateTaskRequest{ID: p.id(name), Bundle: bundle, Options: o})
			}
		}
		c.do("Create nowhere", &taskapi.CreateTaskRequest{ID: p.id("nowhere"), Bundle: filepath.Join(p.dir, "nowhere"), Options: options})
		c.do("Create nothing", &taskapi.CreateTaskRequest{})
		c.state()
	}},
}

// ordered2 ranges over pairs of texts, in their order.
func ordered2(pairs ...string) func(func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for i := 0; i < len(pairs); i += 2 {
			if !yield(pairs[i], pairs[i+1]) {
				return
			}
		}
	}
}

// setSpec makes containerd write this text as the bundle's config.json.
func (c *container) setSpec(text string) {
	c.p.Helper()
	ctx := c.p.client.Context(c.p.Context())
	store := c.p.client.ContainerService()
	record, err := store.Get(ctx, c.id)
	c.p.must(err)
	record.Spec = &anypb.Any{TypeUrl: record.Spec.GetTypeUrl(), Value: []byte(text)}
	_, err = store.Update(ctx, containers.Container{ID: c.id, Spec: record.Spec}, "spec")
	c.p.must(err)
}
