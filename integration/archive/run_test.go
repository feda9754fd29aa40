package archive

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// onOpt runs a test under a containerd whose opt directory is the test's, with its own release's ctr.
func onOpt(t *testing.T, target bed.Target, ctr string, test func(b *bed.Bench, opt string, run func(args ...string) string)) {
	t.Run(target.Name, func(t *testing.T) {
		t.Parallel()
		opt := t.TempDir()
		daemon := startDaemon(t, target, opt)
		t.Cleanup(func() {
			if err := daemon.Close(); err != nil {
				t.Error(err)
			}
		})
		b := bed.NewBench(t, target, daemon)
		test(b, opt, func(args ...string) string {
			t.Helper()
			command := exec.CommandContext(t.Context(), ctr, append([]string{"--address", daemon.Address, "--namespace", b.Client.Namespace}, args...)...)
			var errOut bytes.Buffer
			command.Stderr = &errOut // it warns there of cgroup v1
			out, err := command.Output()
			if err != nil {
				t.Fatalf("ctr %s: %v\n%s", strings.Join(args, " "), err, errOut.String())
			}
			return string(out)
		})
	})
}

func startDaemon(t *testing.T, target bed.Target, opt string) *harness.Daemon {
	t.Helper()
	for _, server := range harness.Servers(bed.BinDir(t)) {
		if server.Name != target.Server {
			continue
		}
		daemon, err := harness.StartDaemon(t.Context(), harness.DaemonConfig{Server: server, BinDir: bed.BinDir(t), Opt: opt, Debug: true})
		if err != nil {
			t.Fatal(err)
		}
		return daemon
	}
	t.Fatalf("containerd %s is not installed: run `make deps servers`", target.Server)
	return nil
}

// TestInstall: `ctr install` puts the programs of the image where containerd looks first, and a container with handlers runs with
// the shim and the handler host from there. The newest and the oldest release do, each with its own ctr.
func TestInstall(t *testing.T) {
	image := built(t)
	for ctr, target := range map[string]bed.Target{filepath.Join(bed.BinDir(t), "ctr"): bed.Pinned, "/usr/bin/ctr": bed.Oldest} {
		onOpt(t, target, ctr, func(b *bed.Bench, opt string, run func(args ...string) string) {
			run("images", "import", image.File)
			if names := run("images", "ls", "-q"); names != image.Name+"\n" {
				b.Fatalf("the import has made the images %q, want %s", names, image.Name)
			}
			run("install", image.Name)
			wantPrograms(b, filepath.Join(opt, "bin"))

			c := b.Start(bed.Annotations{bed.KeyPostStart: bed.Shell("true")}, bed.Obedient)
			shims, err := b.Daemon.Shims()
			if err != nil || len(shims) != 1 {
				b.Fatalf("shims %v: %v", shims, err)
			}
			if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", shims[0].PID)); err != nil || exe != filepath.Join(opt, "bin/containerd-shim-lifecycle-v2") {
				b.Errorf("the shim is %s (%v), want the one in %s", exe, err, opt)
			}
			open, err := shims[0].Descriptors()
			if err != nil || !strings.Contains(strings.Join(open, "\n"), filepath.Join(opt, "bin/lifecycle-hookexec")) {
				b.Errorf("the shim's handler host is not the one in %s: %q (%v)", opt, open, err)
			}
			c.End(137)

			run("install", "--replace", image.Name) // as an upgrade does
			wantPrograms(b, filepath.Join(opt, "bin"))
		})
	}
}

// wantPrograms wants the built programs in a directory, and nothing else.
func wantPrograms(b *bed.Bench, dir string) {
	b.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	programs := Programs(b)
	if len(entries) != len(programs) {
		b.Errorf("%s has %v, want %q", dir, entries, programs)
	}
	for _, program := range programs {
		if !bytes.Equal(read(b, filepath.Join(dir, program)), read(b, filepath.Join(bed.BinDir(b), program))) {
			b.Errorf("%s in %s is not the one in bin/: run `make test-image`", program, dir)
		}
	}
}

// TestStart: every program of the image starts as the image's user, on a read-only root.
func TestStart(t *testing.T) {
	archive := built(t)
	_, version, _ := strings.Cut(archive.Name, ":")
	onOpt(t, bed.Pinned, filepath.Join(bed.BinDir(t), "ctr"), func(b *bed.Bench, _ string, run func(args ...string) string) {
		run("images", "import", "--platform", "linux/"+archive.Images[0].Arch, archive.File)
		image, err := b.Client.GetImage(b.Client.Context(b.Context()), archive.Name)
		if err != nil {
			b.Fatal(err)
		}
		for _, program := range Programs(b) {
			task, out := start(b, image, strings.NewReader(""), "/bin/"+program, "--version")
			if status := wait(b, task); status != 0 || !strings.Contains(out.all(), version) {
				b.Errorf("%s --version: exit status %d, %s", program, status, out.all())
			}
		}

		// It reads to the end of its input, so it can be looked at.
		input, end := io.Pipe()
		task, out := start(b, image, input, "/bin/lifecyclectl", "validate", "-f", "-")
		status := string(read(b, fmt.Sprintf("/proc/%d/status", task.Pid())))
		if !strings.Contains(status, "\nUid:\t65532\t65532\t65532\t65532\n") || !strings.Contains(status, "\nGid:\t65532\t65532\t65532\t65532\n") {
			b.Errorf("it does not run as the image's user:\n%s", status)
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/written", task.Pid()), nil, 0o600); err == nil || !strings.Contains(err.Error(), syscall.EROFS.Error()) {
			b.Errorf("its root is not read-only: %v", err)
		}
		_, _ = io.WriteString(end, "{preStop: {sleep: {seconds: 5}}}\n")
		_ = end.Close()
		if err := task.CloseIO(b.Client.Context(b.Context()), containerd.WithStdinCloser); err != nil { // the shim holds the other end open
			b.Fatal(err)
		}
		if status := wait(b, task); status != 0 {
			b.Errorf("lifecyclectl validate: exit status %d, %s", status, out.all())
		}
	})
}

// output is what a program prints.
type output struct{ stdout, stderr bytes.Buffer }

func (o *output) all() string { return o.stdout.String() + o.stderr.String() }

// start runs a program of the image on a read-only root, with the image's user. The test's end removes the container.
func start(b *bed.Bench, image containerd.Image, input io.Reader, args ...string) (containerd.Task, *output) {
	b.Helper()
	ctx, id := b.Client.Context(b.Context()), fmt.Sprintf("p%d", time.Now().UnixNano())
	container, err := b.Client.Client.NewContainer(ctx, id, containerd.WithImage(image), containerd.WithNewSnapshot(id, image),
		containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs(args...), oci.WithRootFSReadonly(), oci.WithCgroup(b.Target.CgroupParent()+"/"+id)),
		containerd.WithRuntime(bed.Runtime, b.Options("")))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(b.Client.Context(context.Background()), bed.Limit)
		defer cancel()
		if err := container.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
			b.Error(err)
		}
	})
	var out output
	task, err := container.NewTask(ctx, cio.NewCreator(cio.WithStreams(input, &out.stdout, &out.stderr), cio.WithFIFODir(b.TempDir())))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(b.Client.Context(context.Background()), bed.Limit)
		defer cancel()
		if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil {
			b.Error(err)
		}
	})
	if err := task.Start(ctx); err != nil {
		b.Fatalf("%q: %v", args, err)
	}
	return task, &out
}

// wait returns the exit status of a program whose output has been read to the end.
func wait(b *bed.Bench, task containerd.Task) uint32 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Client.Context(b.Context()), bed.Limit)
	defer cancel()
	exit, err := task.Wait(ctx)
	if err != nil {
		b.Fatal(err)
	}
	status := <-exit
	if status.Error() != nil {
		b.Fatal(status.Error())
	}
	task.IO().Wait()
	return status.ExitCode()
}
