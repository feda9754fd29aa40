package debian

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// emulatedLimit bounds the life of an emulated machine, which boots and runs the example in a minute on two cores.
const emulatedLimit = 15 * time.Minute

//go:embed arm64-init
var arm64Init string

// arm64Packages are what an emulated machine consists of, beside ours: Debian's kernel (6.1, cgroup v2), containerd and runc.
var arm64Packages = []string{"linux-image-arm64", "containerd", "runc", "busybox-static", "libc6", "libseccomp2", "libgcc-s1"}

// The package for arm64 does what it says on a Linux of that architecture, which is emulated as a whole: user-mode emulation has
// neither namespaces nor the clone flags that a handler's start needs.
func TestArm64(t *testing.T) {
	dir := tempDir(t)
	root, kernel := filepath.Join(dir, "root"), filepath.Join(dir, "kernel")
	for _, d := range []string{root, kernel} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range arm64Debs(t) {
		to := root
		if strings.HasPrefix(filepath.Base(file), "linux-image-") {
			to = kernel
		}
		run(t, limit, "dpkg-deb", "-x", file, to)
	}
	run(t, limit, "dpkg-deb", "-x", deb(t, "arm64"), root)
	write(t, filepath.Join(root, "init"), arm64Init, 0o755)
	initrd := filepath.Join(dir, "initrd.gz")
	run(t, limit, "sh", "-c", `cd "$1" && rm -rf usr/share/doc usr/share/locale && find . | cpio --quiet -o -H newc | gzip -1 >"$2"`, "sh", root, initrd)
	images, err := filepath.Glob(filepath.Join(kernel, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		t.Fatalf("the kernel's package has the kernels %q", images)
	}
	console := run(t, emulatedLimit, "qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on", "-accel", "tcg", "-smp", "2",
		"-m", "1536", "-nographic", "-no-reboot", "-nic", "none", "-kernel", images[0], "-initrd", initrd, "-append", "console=ttyAMA0 quiet panic=-1")
	for _, want := range []string{
		"machine: aarch64",
		"containerd: 1.6.",
		"started: hi from postStart, Seccomp: 2",
		"status: web PreStop (SIGTERM waits)",
		"stopped: bye at SIGTERM",
		"status: web Exited",
		"status: no containers with handlers",
		"shims: 0",
		"the end",
	} {
		if !strings.Contains(strings.ReplaceAll(console, "\r", ""), want) {
			t.Errorf("the machine does not say %q", want)
		}
	}
	if t.Failed() {
		t.Logf("it says:\n%s", tail(console, 60))
	}
}

// arm64Debs are the packages' files, downloaded once.
func arm64Debs(t *testing.T) []string {
	t.Helper()
	cache := "../../.cache/arm64"
	files, err := filepath.Glob(filepath.Join(cache, "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == len(arm64Packages) {
		return files
	}
	if err := os.RemoveAll(cache); err != nil {
		t.Fatal(err)
	}
	run(t, mirrorLimit, "../../tools/foreign", append([]string{"arm64", cache}, arm64Packages...)...)
	if files, err = filepath.Glob(filepath.Join(cache, "*.deb")); err != nil || len(files) != len(arm64Packages) {
		t.Fatalf("downloaded are %q (%v)", files, err)
	}
	return files
}

// What the tests here run, besides what they say themselves.
func TestMain(m *testing.M) {
	for _, program := range []string{"debootstrap", "unshare", "nsenter", "qemu-aarch64-static", "qemu-system-aarch64", "cpio"} {
		if _, err := exec.LookPath(program); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + ": run `make deps-package`\n")
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
