package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed guest
var guest embed.FS

// debianPackages are what the machine has beside a minimal Debian 12: an init with its bus, what the tests run under and with.
var debianPackages = []string{
	"systemd-sysv", "dbus", "kmod", "busybox-static", "containerd", "runc", "crun", "containernetworking-plugins", "iproute2", "openssl", "procps", "ca-certificates", "apparmor",
}

// diskModules are what the kernel needs for its disks, in this order; on Debian's all of them are modules.
var diskModules = []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4"}

// debianDisk is how large Debian's disk looks. It is as large as what is in it.
const debianDisk = "4G"

// newDebian returns the machine without the tests' disk. It is made once for what it is made of, and kept in cache.
func newDebian(ctx context.Context, cache, foreign string) (machine, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, debianPackages, diskModules, debianDisk, "parser hidden")
	for _, name := range []string{"init", "tests.service", "tests.target"} {
		sum.Write(guestFile(name))
	}
	dir := filepath.Join(cache, fmt.Sprintf("%.12x", sum.Sum(nil)))
	m := machine{kernel: filepath.Join(dir, "kernel"), initrd: filepath.Join(dir, "initrd"), debian: filepath.Join(dir, "debian.ext4")}
	if _, err := os.Stat(dir); err == nil {
		return m, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return m, err
	}
	work, err := os.MkdirTemp(cache, ".new-")
	if err != nil {
		return m, err
	}
	b := builder{ctx: ctx, cache: cache, foreign: foreign, root: filepath.Join(work, "root"), out: filepath.Join(work, "machine")}
	if err := errors.Join(b.build(), removeOthers(cache, work)); err != nil {
		return m, errors.Join(err, os.RemoveAll(work))
	}
	return m, errors.Join(os.Rename(b.out, dir), os.RemoveAll(work))
}

// removeOthers removes machines that were made of something else, and what an earlier run could not finish.
func removeOthers(cache, work string) error {
	entries, err := os.ReadDir(cache)
	for _, entry := range entries {
		if path := filepath.Join(cache, entry.Name()); path != work && entry.Name() != debootstrapCache {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}

// debootstrapCache has the packages, so that only another list of them is downloaded.
const debootstrapCache = "debootstrap"

// builder makes a machine's files in out.
type builder struct {
	ctx                       context.Context
	cache, foreign, root, out string
}

func (b builder) build() error {
	debs := filepath.Join(b.cache, debootstrapCache)
	for _, dir := range []string{debs, b.out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// In its own namespaces, so that nothing of it stays mounted, or runs, when it is interrupted.
	err := run(b.ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "debootstrap", "--variant=minbase", "--cache-dir="+debs,
		"--include="+strings.Join(debianPackages, ","), "bookworm", b.root, "http://deb.debian.org/debian")
	if err != nil {
		return err
	}
	if err := b.hideParser(); err != nil {
		return err
	}
	release, err := b.kernel()
	if err != nil {
		return err
	}
	if err := b.initrd(release); err != nil {
		return err
	}
	return b.disk()
}

// hideParser moves AppArmor's parser to where integration/apparmor has it, and containerd's CRI plugin does not look.
func (b builder) hideParser() error {
	hidden := filepath.Join(b.root, "usr/lib/lifecycle-shim-tests")
	return errors.Join(os.Mkdir(hidden, 0o755), os.Rename(filepath.Join(b.root, "sbin/apparmor_parser"), filepath.Join(hidden, "apparmor_parser")))
}

// kernel fetches Debian's, puts its modules into the root, and returns its release.
func (b builder) kernel() (release string, err error) {
	work := filepath.Join(filepath.Dir(b.out), "kernel")
	if err := run(b.ctx, b.foreign, "amd64", work, "linux-image-amd64"); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("the kernel's packages are %q (%w)", debs, err)
	}
	if err := run(b.ctx, "dpkg-deb", "-x", debs[0], work); err != nil {
		return "", err
	}
	images, err := filepath.Glob(filepath.Join(work, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return "", fmt.Errorf("the kernel's package has the kernels %q (%w)", images, err)
	}
	release = strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return release, errors.Join(
		os.Rename(images[0], filepath.Join(b.out, "kernel")),
		os.MkdirAll(filepath.Join(b.root, "lib/modules"), 0o755),
		os.Rename(filepath.Join(work, "lib/modules", release), filepath.Join(b.root, "lib/modules", release)),
		run(b.ctx, "chroot", b.root, "depmod", release),
	)
}

// initrd is the file system that the kernel begins with: busybox, the disks' modules, guest/init.
func (b builder) initrd(release string) error {
	dir := filepath.Join(filepath.Dir(b.out), "initrd")
	for _, name := range []string{"bin", "lib", "dev", "new"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "init"), guestFile("init"), 0o755); err != nil {
		return err
	}
	// modprobe says which others each needs, before it: "insmod /lib/modules/…/ext4.ko".
	args := append([]string{"sh", b.root, dir, filepath.Join(b.out, "initrd"), release}, diskModules...)
	return run(b.ctx, "sh", append([]string{"-ec", `root=$1 dir=$2 out=$3 release=$4
		shift 4
		cp "$root/bin/busybox" "$dir/bin/"
		chroot "$root" modprobe --all --show-depends --set-version "$release" "$@" | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
			cp "$root$file" "$dir/lib/"
			basename "$file" >>"$dir/modules"
		done
		cd "$dir" && find . | cpio --quiet -o -H newc | gzip -1 >"$out"`}, args...)...)
}

func (b builder) disk() error {
	units := filepath.Join(b.root, "etc/systemd/system")
	return errors.Join(
		os.WriteFile(filepath.Join(units, "tests.service"), guestFile("tests.service"), 0o644),
		os.WriteFile(filepath.Join(units, "tests.target"), guestFile("tests.target"), 0o644),
		os.MkdirAll(filepath.Join(b.root, "work"), 0o755),
		run(b.ctx, "sh", "-c", `rm -f "$1"/var/cache/apt/archives/*.deb`, "sh", b.root),
		makeDisk(b.ctx, b.root, filepath.Join(b.out, "debian.ext4"), debianDisk),
	)
}

// makeDisk makes a sparse file with an ext4 file system of what is in dir.
func makeDisk(ctx context.Context, dir, file, size string) error {
	return run(ctx, "mke2fs", "-q", "-t", "ext4", "-d", dir, file, size)
}

func guestFile(name string) []byte {
	data, err := guest.ReadFile("guest/" + name)
	if err != nil {
		panic(err) // embedded
	}
	return data
}
