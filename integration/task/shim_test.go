package task

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Pods share one shim, as under stock.
func TestPodSharesOneShim(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		pod := bed.Annotations{"io.kubernetes.cri.sandbox-id": "pod1"}
		first := b.Start(pod, bed.Obedient)
		second := b.Start(bed.Annotations{"io.kubernetes.cri.sandbox-id": "pod1", bed.KeyPostStart: bed.Shell("true"), bed.KeyPreStop: bed.Shell("true")}, bed.Obedient)
		other := b.Start(bed.Annotations{"io.kubernetes.cri.sandbox-id": "pod2"}, bed.Obedient)
		shims, err := b.Daemon.Shims()
		if err != nil {
			b.Fatal(err)
		}
		if len(shims) != 2 {
			b.Errorf("%d shims for two pods: %v", len(shims), shims)
		}
		for _, c := range []*bed.Container{first, second, other} {
			c.WaitFor("ready")
			c.Signal(syscall.SIGTERM)
			c.WantExit(7)
		}
	})
}

// At most one handler of a container runs at a time; those of different
// containers never wait for each other, nor does the pod's event stream.
func TestHeldStartHoldsNobodyElse(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		pod := func(more bed.Annotations) bed.Annotations {
			more["io.kubernetes.cri.sandbox-id"] = "pod1"
			return more
		}
		held, result := b.StartLater(pod(bed.Annotations{bed.KeyPostStart: bed.Shell(bed.WaitForGo)}), bed.Forever)
		held.WaitFor("begun")
		c := b.Start(pod(bed.Annotations{bed.KeyPostStart: bed.Shell("true")}), bed.Obedient)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
		held.Touch("go")
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
	})
}

// The id of a deleted container can be used again at once.
func TestSameIDAgain(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		b.Start(bed.Annotations{"io.kubernetes.cri.sandbox-id": "pod1"}, bed.Forever) // keeps the shim
		c := b.NewContainer(bed.Annotations{"io.kubernetes.cri.sandbox-id": "pod1", bed.KeyPostStart: bed.Shell("echo x >> /starts")}, bed.Obedient)
		for i := range 5 {
			if _, _, err := c.Run(b.Context()); err != nil {
				b.Fatal(err)
			}
			if got := c.Read("starts"); len(got) != 2*(i+1) {
				b.Fatalf("postStart has run %d times, want %d", len(got)/2, i+1)
			}
			c.End(137)
		}
	})
}

// Fifty containers with both handlers, started and stopped at once, twice.
func TestManyAtOnce(t *testing.T) {
	block := fmt.Sprintf("{postStart: {%s}, preStop: {%s}, terminationGracePeriodSeconds: %.0f}", bed.Shell("echo started > /handlers"), bed.Shell("echo stopped >> /handlers"),
		harness.Patience(10*time.Second).Seconds()) // 10 s is the default
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		for range 2 {
			var containers []*bed.Container
			for i := range 50 {
				containers = append(containers, b.NewContainer(bed.Annotations{
					"io.kubernetes.cri.sandbox-id": fmt.Sprintf("pod%d", i%10),
					bed.KeyLifecycle:               block,
				}, bed.Obedient))
			}
			allOf(b, containers, func(ctx context.Context, c *bed.Container) error {
				if _, _, err := c.Run(ctx); err != nil {
					return err
				}
				return harness.Poll(ctx, bed.Limit, "the trap", func() (bool, error) { return c.Exists("ready"), nil })
			})
			allOf(b, containers, func(ctx context.Context, c *bed.Container) error {
				if _, err := c.Kill(ctx, syscall.SIGTERM); err != nil {
					return err
				}
				status, err := c.Wait(ctx)
				if err == nil && status != 7 {
					err = fmt.Errorf("exit status %d, want 7", status)
				}
				return err
			})
			allOf(b, containers, func(ctx context.Context, c *bed.Container) error {
				status, _, err := c.Delete(ctx)
				if err == nil && status != 7 {
					err = fmt.Errorf("deleted with status %d, want 7", status)
				}
				return err
			})
			for _, c := range containers {
				if got := c.Read("handlers"); got != "started\nstopped\n" {
					b.Errorf("handlers of %s: %q", c.ID, got)
				}
				c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
				if err := c.Remove(b.Context()); err != nil {
					b.Error(err)
				}
			}
		}
	})
}

// allOf does the same for all containers at once.
func allOf(b *bed.Bench, containers []*bed.Container, do func(context.Context, *bed.Container) error) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 4*bed.Limit)
	defer cancel()
	var group sync.WaitGroup
	for _, c := range containers {
		group.Go(func() {
			if err := do(ctx, c); err != nil {
				b.Errorf("%s: %v", c.ID, err)
			}
		})
	}
	group.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// copyBinaries makes a directory with the shim, with or without its host.
func copyBinaries(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	bed.InstallFrom(t, bed.BinDir(t), dir, names...)
	return dir
}

// withShim runs a container with the shim at path.
func withShim(path string) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) { config.Runtime = path }
}

// docs/spec.md#upgrade: a missing host is reported to containers that need it, and to no others.
func TestMissingHost(t *testing.T) {
	dir := copyBinaries(t, "containerd-shim-lifecycle-v2")
	daemon, err := harness.StartDaemon(t.Context(), harness.DaemonConfig{
		Server: harness.Servers(bed.BinDir(t))[0], BinDir: dir,
		Env: []string{"PATH=" + dir + ":/usr/sbin:/usr/bin:/sbin:/bin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.Close(); err != nil {
			t.Error(err)
		}
	})
	b := bed.NewBench(t, bed.Pinned, daemon)
	plain := b.Start(nil, bed.Obedient)
	plain.WaitFor("ready")
	plain.Signal(syscall.SIGTERM)
	plain.WantExit(7)
	b.Start(bed.Annotations{bed.KeyPostStart: "sleep: {seconds: 0}"}, bed.Forever) // runs no process, needs no host
	c := b.NewContainer(bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, bed.Obedient)
	_, err = c.Create(b.Context())
	if !errdefs.IsFailedPrecondition(err) {
		b.Errorf("%v, want FailedPrecondition", err)
	}
	b.WantError(err, "lifecycle-hookexec", "install it")
}

// docs/spec.md#upgrade: a running shim continues with the host that it has opened.
func TestHostIsReplaced(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		dir := copyBinaries(b, "containerd-shim-lifecycle-v2", "lifecycle-hookexec")
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("touch /started"), bed.KeyPreStop: bed.Shell("touch /stopped")}, bed.Obedient,
			withShim(filepath.Join(dir, "containerd-shim-lifecycle-v2")))
		if _, err := c.Create(b.Context()); err != nil {
			b.Fatal(err)
		}
		host := filepath.Join(dir, "lifecycle-hookexec")
		if err := os.Rename(host, host+".old"); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(host, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		if !c.Exists("started") || !c.Exists("stopped") {
			b.Error("a handler did not run")
		}
	})
}

// Options: nil, runc's, TOML in a file.
func TestOptions(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		file := filepath.Join(b.TempDir(), "options.toml")
		if err := os.WriteFile(file, b.Options("").ConfigBody, 0o600); err != nil {
			b.Fatal(err)
		}
		forms := map[string]any{
			"runc's own":     &runcoptions.Options{Root: b.Daemon.RuncRoot, BinaryName: b.Target.Binary},
			"TOML in a file": &runtimeoptions.Options{ConfigPath: file},
			"TOML inline":    b.Options("TypeUrl = \"x\"\nOutputLimit = 100"),
		}
		if b.Target.Binary == "runc" {
			forms["none"] = harness.NoOptions{}
		}
		for name, options := range forms {
			c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("touch /started")}, bed.Obedient,
				func(config *harness.ContainerConfig) { config.Options = options })
			if _, _, err := c.Run(b.Context()); err != nil {
				b.Errorf("%s: %v", name, err)
				continue
			}
			if !c.Exists("started") {
				b.Errorf("%s: postStart did not run", name)
			}
		}
	})
}

func TestInvalidOptions(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		for body, says := range map[string]string{
			"Nonsense = 1":                "Nonsense",
			"DefaultGracePeriod = \"0s\"": "is no duration above 0",
			"OutputLimit = -1":            "OutputLimit",
			"Root = ":                     "options",
		} {
			c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("true")}, bed.Obedient,
				func(config *harness.ContainerConfig) {
					config.Options = &runtimeoptions.Options{ConfigBody: []byte(body)}
				})
			_, err := c.Create(b.Context())
			if !errdefs.IsInvalidArgument(err) {
				b.Errorf("%q: %v, want InvalidArgument", body, err)
			}
			b.WantError(err, says)
		}
	})
}

// -info, as containerd, ctr and nerdctl ask for it, with each form of options.
func TestInfo(t *testing.T) {
	for name, options := range map[string]any{
		"none": nil, "runc's own": &runcoptions.Options{BinaryName: "runc"},
		"TOML": &runtimeoptions.Options{ConfigBody: []byte("BinaryName = \"runc\"")},
	} {
		t.Run(name, func(t *testing.T) {
			var stdin []byte
			if options != nil {
				encoded, err := typeurl.MarshalAnyToProto(options)
				if err != nil {
					t.Fatal(err)
				}
				if stdin, err = proto.Marshal(encoded); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join(bed.BinDir(t), "containerd-shim-lifecycle-v2"), "-info")
			cmd.Stdin = bytes.NewReader(stdin)
			cmd.Env = []string{"PATH=" + bed.BinDir(t)}
			output, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var info types.RuntimeInfo
			if err := proto.Unmarshal(output, &info); err != nil {
				t.Fatal(err)
			}
			if info.Name != bed.Runtime || info.Version.GetVersion() == "" || !strings.Contains(info.Features.GetTypeUrl(), "Features") {
				t.Errorf("info %+v", &info)
			}
		})
	}
}

// Both binaries are static, and only the handler host carries libcontainer and C, which would be in memory once for each pod.
func TestWhatIsLinked(t *testing.T) {
	for name, carries := range map[string]bool{"containerd-shim-lifecycle-v2": false, "lifecycle-hookexec": true} {
		path := filepath.Join(bed.BinDir(t), name)
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found := slices.ContainsFunc(info.Deps, func(m *debug.Module) bool { return m.Path == "github.com/opencontainers/runc" })
		if found != carries {
			t.Errorf("%s links runc's module: %t, want %t", name, found, carries)
		}
		if c := slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"}); c != carries {
			t.Errorf("%s is built with C: %t, want %t", name, c, carries)
		}
		file, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if libraries, err := file.ImportedLibraries(); err != nil || len(libraries) > 0 {
			t.Errorf("%s is not static: %v, %v", name, libraries, err)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
}
