package integration

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

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Pods share one shim, as under stock.
func TestPodSharesOneShim(t *testing.T) {
	on(t, targets, func(b *bench) {
		pod := with{"io.kubernetes.cri.sandbox-id": "pod1"}
		first := b.run(pod, obedient)
		second := b.run(with{"io.kubernetes.cri.sandbox-id": "pod1", keyPostStart: shell("true"), keyPreStop: shell("true")}, obedient)
		other := b.run(with{"io.kubernetes.cri.sandbox-id": "pod2"}, obedient)
		shims, err := b.daemon.Shims()
		if err != nil {
			b.Fatal(err)
		}
		if len(shims) != 2 {
			b.Errorf("%d shims for two pods: %v", len(shims), shims)
		}
		for _, c := range []*container{first, second, other} {
			c.waitFor("ready")
			c.kill(syscall.SIGTERM)
			c.wantExit(7)
		}
	})
}

// At most one handler of a container runs at a time; those of different
// containers never wait for each other, nor does the pod's event stream.
func TestHeldStartHoldsNobodyElse(t *testing.T) {
	on(t, targets, func(b *bench) {
		pod := func(more with) with {
			more["io.kubernetes.cri.sandbox-id"] = "pod1"
			return more
		}
		held, result := b.runLater(pod(with{keyPostStart: shell(waiting)}), forever)
		held.waitFor("begun")
		c := b.run(pod(with{keyPostStart: shell("true")}), obedient)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.wantTopics(created, start, exit, deleted)
		held.touch("go")
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
	})
}

// The id of a deleted container can be used again at once.
func TestSameIDAgain(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		b.run(with{"io.kubernetes.cri.sandbox-id": "pod1"}, forever) // keeps the shim
		c := b.newContainer(with{"io.kubernetes.cri.sandbox-id": "pod1", keyPostStart: shell("echo x >> /starts")}, obedient)
		for i := range 5 {
			if _, _, err := c.Run(b.Context()); err != nil {
				b.Fatal(err)
			}
			if got := c.read("starts"); len(got) != 2*(i+1) {
				b.Fatalf("postStart has run %d times, want %d", len(got)/2, i+1)
			}
			c.end(137)
		}
	})
}

// Fifty containers with both handlers, started and stopped at once, twice.
func TestManyAtOnce(t *testing.T) {
	block := fmt.Sprintf("{postStart: {%s}, preStop: {%s}, terminationGracePeriodSeconds: %.0f}", shell("echo started > /handlers"), shell("echo stopped >> /handlers"),
		harness.Patience(10*time.Second).Seconds()) // 10 s is the default
	on(t, []target{pinned}, func(b *bench) {
		for range 2 {
			var containers []*container
			for i := range 50 {
				containers = append(containers, b.newContainer(with{
					"io.kubernetes.cri.sandbox-id": fmt.Sprintf("pod%d", i%10),
					keyLifecycle:                   block,
				}, obedient))
			}
			b.all(containers, func(ctx context.Context, c *container) error {
				if _, _, err := c.Run(ctx); err != nil {
					return err
				}
				return harness.Poll(ctx, limit, "the trap", func() (bool, error) { return c.exists("ready"), nil })
			})
			b.all(containers, func(ctx context.Context, c *container) error {
				if _, err := c.Kill(ctx, syscall.SIGTERM); err != nil {
					return err
				}
				status, err := c.Wait(ctx)
				if err == nil && status != 7 {
					err = fmt.Errorf("exit status %d, want 7", status)
				}
				return err
			})
			b.all(containers, func(ctx context.Context, c *container) error {
				status, _, err := c.Delete(ctx)
				if err == nil && status != 7 {
					err = fmt.Errorf("deleted with status %d, want 7", status)
				}
				return err
			})
			for _, c := range containers {
				if got := c.read("handlers"); got != "started\nstopped\n" {
					b.Errorf("handlers of %s: %q", c.ID, got)
				}
				c.wantTopics(created, start, exit, deleted)
				if err := c.Remove(b.Context()); err != nil {
					b.Error(err)
				}
			}
		}
	})
}

// all does the same for all containers at once.
func (b *bench) all(containers []*container, do func(context.Context, *container) error) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 4*limit)
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
	installFrom(t, binDir(t), dir, names...)
	return dir
}

// installFrom puts binaries into a directory, each in one moment, as an installation does. cp writes them: what this process
// writes is held open by whatever it starts meanwhile, and cannot be executed for that long (ETXTBSY, go.dev/issue/22315).
func installFrom(t testing.TB, from, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if out, err := exec.CommandContext(t.Context(), "cp", filepath.Join(from, name), path+".new").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
}

// withShim runs a container with the shim at path.
func withShim(path string) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) { config.Runtime = path }
}

// docs/spec.md#upgrade: a missing host is told to whoever needs it, and to nobody else.
func TestMissingHost(t *testing.T) {
	dir := copyBinaries(t, "containerd-shim-lifecycle-v2")
	daemon, err := harness.StartDaemon(t.Context(), harness.DaemonConfig{
		Server: harness.Servers(binDir(t))[0], BinDir: dir,
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
	b := newBench(t, pinned, daemon)
	plain := b.run(nil, obedient)
	plain.waitFor("ready")
	plain.kill(syscall.SIGTERM)
	plain.wantExit(7)
	b.run(with{keyPostStart: "sleep: {seconds: 0}"}, forever) // runs no process, needs no host
	c := b.newContainer(with{keyPreStop: shell("true")}, obedient)
	_, err = c.Create(b.Context())
	if !errdefs.IsFailedPrecondition(err) {
		b.Errorf("%v, want FailedPrecondition", err)
	}
	b.wantError(err, "lifecycle-hookexec", "install it")
}

// docs/spec.md#upgrade: a running shim goes on with the host that it has opened.
func TestHostIsReplaced(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		dir := copyBinaries(b, "containerd-shim-lifecycle-v2", "lifecycle-hookexec")
		c := b.newContainer(with{keyPostStart: shell("touch /started"), keyPreStop: shell("touch /stopped")}, obedient,
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
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		if !c.exists("started") || !c.exists("stopped") {
			b.Error("a handler did not run")
		}
	})
}

// Options: nil, runc's, TOML in a file.
func TestOptions(t *testing.T) {
	on(t, targets, func(b *bench) {
		file := filepath.Join(b.TempDir(), "options.toml")
		if err := os.WriteFile(file, b.options("").ConfigBody, 0o600); err != nil {
			b.Fatal(err)
		}
		forms := map[string]any{
			"runc's own":     &runcoptions.Options{Root: b.daemon.RuncRoot, BinaryName: b.target.binary},
			"TOML in a file": &runtimeoptions.Options{ConfigPath: file},
			"TOML inline":    b.options("TypeUrl = \"x\"\nOutputLimit = 100"),
		}
		if b.target.binary == "runc" {
			forms["none"] = harness.NoOptions{}
		}
		for name, options := range forms {
			c := b.newContainer(with{keyPostStart: shell("touch /started")}, obedient,
				func(config *harness.ContainerConfig) { config.Options = options })
			if _, _, err := c.Run(b.Context()); err != nil {
				b.Errorf("%s: %v", name, err)
				continue
			}
			if !c.exists("started") {
				b.Errorf("%s: postStart did not run", name)
			}
		}
	})
}

func TestInvalidOptions(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		for body, says := range map[string]string{
			"Nonsense = 1":                "Nonsense",
			"DefaultGracePeriod = \"0s\"": "is no duration above 0",
			"OutputLimit = -1":            "OutputLimit",
			"Root = ":                     "options",
		} {
			c := b.newContainer(with{keyPostStart: shell("true")}, obedient,
				func(config *harness.ContainerConfig) {
					config.Options = &runtimeoptions.Options{ConfigBody: []byte(body)}
				})
			_, err := c.Create(b.Context())
			if !errdefs.IsInvalidArgument(err) {
				b.Errorf("%q: %v, want InvalidArgument", body, err)
			}
			b.wantError(err, says)
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
			cmd := exec.CommandContext(t.Context(), filepath.Join(binDir(t), "containerd-shim-lifecycle-v2"), "-info")
			cmd.Stdin = bytes.NewReader(stdin)
			cmd.Env = []string{"PATH=" + binDir(t)}
			output, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var info types.RuntimeInfo
			if err := proto.Unmarshal(output, &info); err != nil {
				t.Fatal(err)
			}
			if info.Name != Runtime || info.Version.GetVersion() == "" || !strings.Contains(info.Features.GetTypeUrl(), "Features") {
				t.Errorf("info %+v", &info)
			}
		})
	}
}

// Both binaries are static, and only the handler host carries libcontainer and C, which would be in memory once for each pod.
func TestWhatIsLinked(t *testing.T) {
	for name, carries := range map[string]bool{"containerd-shim-lifecycle-v2": false, "lifecycle-hookexec": true} {
		path := filepath.Join(binDir(t), name)
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
