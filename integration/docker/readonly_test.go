package docker

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// volumeWithMount is a directory of the test's with another file system mounted below it.
func (b *bench) volumeWithMount() string {
	b.Helper()
	dir := filepath.Join(b.dir, "volume")
	below := filepath.Join(dir, "below")
	if err := os.MkdirAll(below, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, "size=64k"); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := unix.Unmount(below, unix.MNT_DETACH); err != nil {
			b.Error(err)
		}
	})
	return dir
}

// write is what a container finds that it can write at /ro: nothing, or what is mounted below it.
const write = `touch /ro/x 2>/dev/null && echo top; touch /ro/below/x 2>/dev/null && echo below; [ -e /ro/below ] && ls /ro/below; exit 0`

// writable runs a container with these flags, and returns what it can write.
func (b *bench) writable(runtime string, flags ...string) string {
	b.Helper()
	return b.ok(b.words(b.name("w"+strconv.Itoa(len(b.names))), spec{runtime: runtime, flags: flags, args: []string{"sh", "-c", write}})...).Stdout
}

const (
	recursive = ",readonly,bind-recursive=readonly,bind-propagation=rprivate"
	alone     = ",readonly,bind-recursive=disabled"
)

// FAULTS C3: dockerd knows no features of a runtime that is named by its type, on the command line or in daemon.json. A read-only
// mount is not recursive then, and one that must be is refused. The page says so, and what to do: leave out what is mounted below.
func TestC3ReadOnlyMounts(t *testing.T) {
	b := newBench(t)
	volume := b.volumeWithMount()
	for name, runtime := range map[string]string{"by its type": "", "of daemon.json": "hasty"} {
		if got := b.writable(runtime, "--volume", volume+":/ro:ro"); got != "below\nx\n" {
			t.Errorf("%s, -v …:ro: it can write %q: is the page still right?", name, got)
		}
		if err := os.Remove(filepath.Join(volume, "below/x")); err != nil {
			t.Error(err)
		}
		out := b.command(b.words(b.name("refused"+strconv.Itoa(len(b.names))), spec{runtime: runtime, flags: []string{"--mount", "type=bind,src=" + volume + ",dst=/ro" + recursive}})...)
		if out.Status == 0 {
			t.Errorf("%s: a recursive read-only mount is not refused", name)
		}
		b.wantSaid(out.Stderr, "rro is not supported by runtime", "OCI features struct is not available")
		if got := b.writable(runtime, "--mount", "type=bind,src="+volume+",dst=/ro"+alone); got != "" {
			t.Errorf("%s, bind-recursive=disabled: it can write %q", name, got)
		}
	}
}

// FAULTS C3: under the name of the stock shim, in the directory that containerd itself looks at first, the shim serves docker's own runtime, whose
// features dockerd knows: read-only mounts are recursive, and handlers run.
func TestC3AsTheStockShim(t *testing.T) {
	t.Parallel()
	opt := t.TempDir()
	if err := os.Mkdir(filepath.Join(opt, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	link := func(shim string) {
		t.Helper()
		path := filepath.Join(opt, "bin/containerd-shim-runc-v2")
		if err := errors.Join(os.Symlink(filepath.Join(binDir(t), shim), path+".new"), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	link("containerd-shim-lifecycle-v2")
	w := newWorldWithOpt(t, opt, func(string) (map[string]any, error) { return map[string]any{}, nil })
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	b := newBenchIn(t, w)
	volume := b.volumeWithMount()
	for _, runtime := range []string{"default", "runc", "io.containerd.runc.v2"} {
		if got := b.writable(runtime, "--volume", volume+":/ro:ro"); got != "" {
			t.Errorf("%s, -v …:ro: it can write %q", runtime, got)
		}
		if got := b.writable(runtime, "--mount", "type=bind,src="+volume+",dst=/ro"+recursive); got != "" {
			t.Errorf("%s, bind-recursive=readonly: it can write %q", runtime, got)
		}
	}
	name := b.run("c", spec{
		runtime: "default", flags: []string{"--volume", volume + ":/ro:ro"},
		postStart: shell(write + " > wrote"), preStop: shell("echo pre >> signals"),
	})
	b.wantRead("wrote", "") // nor can a handler
	b.wantSaid(b.ok("lifecyclectl", "--namespace", "moby", "status").Stdout, b.id(name)[:12], "postStart")
	if out := b.ok("docker", "run", "--rm", harness.ImageBusybox, "echo", "plain"); out.Stdout != "plain\n" {
		t.Errorf("without handlers: %q", out.Stdout)
	}
	// Undone: running containers continue, and new containers have the stock shim.
	link("containerd-shim-runc-v2")
	b.ok("docker", "run", "--rm", "--annotation", keyPostStart+"=nonsense", harness.ImageBusybox, "true")
	b.ok("docker", "stop", name)
	b.wantRead("signals", "pre\nTERM\n")
	b.wantEnded(name, "7")
}
