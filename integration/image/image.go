// Package image builds a real nginx image from Debian's packages, without a registry and without
// installing anything on the host: the packages are downloaded with apt-get, read as archives, and
// what nginx needs of them is written as an archive that `ctr image import` takes.
//
// The same packages and the same recipe give the same bytes, so the image is kept in the cache and
// built again only when one of the two has changed. To get newer packages, remove <cache>/debs.
//
// What the image is for: the example of the Kubernetes page "Attach Handlers to Container Lifecycle
// Events" runs in it word for word. It needs nginx, /bin/sh and killall, which busybox brings.
package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Ref is the name the image has in containerd once imported.
const Ref = "localhost/lifecycle-shim/nginx:demo"

// DrainPath is DrainSize bytes, served at as many bytes per second as the query asks for (?rate=16384):
// a request to have in flight when the stop comes.
const (
	DrainPath = "/drain.txt"
	DrainSize = 48 << 10
)

// Image is a built image.
type Image struct {
	Archive string // a tar file, as `docker save` writes it
	Size    int64  // of the archive in bytes
	Digest  string // of the image manifest
	Nginx   string // the nginx package's version
	Cached  bool   // nothing had to be built
}

// Build returns the image, from cacheDir when it is there and its inputs have not changed. Several
// processes may call it at once: they take turns. progress hears what is being done when it takes
// more than a moment; it may be nil.
func Build(ctx context.Context, cacheDir string, progress func(string)) (*Image, error) {
	if progress == nil {
		progress = func(string) {}
	}
	img, err := build(ctx, cacheDir, progress)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // and not which of the commands it has ended
	}
	if err != nil {
		return nil, fmt.Errorf("nginx image: %w", err)
	}
	return img, nil
}

func build(ctx context.Context, cacheDir string, progress func(string)) (*Image, error) {
	// apt runs in its own folder, so a relative path would mean another place there.
	cacheDir, err := filepath.Abs(cacheDir)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cacheDir, "image")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()

	debs, err := fetch(ctx, filepath.Join(cacheDir, "debs"), progress)
	if err != nil {
		return nil, err
	}
	inputs, err := inputsOf(debs)
	if err != nil {
		return nil, err
	}
	if img, ok := cached(dir, inputs); ok {
		return img, nil
	}
	progress("building the image")
	return assemble(ctx, dir, debs, inputs)
}

// lock makes builders in one cache take turns. It polls because flock cannot be interrupted.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing unlocks
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if err := pause(ctx, lockPoll); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("waiting for another build (%s is locked): %w", path, err)
		}
	}
}

// assemble builds the archive beside its final place and renames it, so that a build cut short
// never leaves half an image under the real name.
func assemble(ctx context.Context, dir string, debs []deb, inputs string) (*Image, error) {
	pool, err := unpack(ctx, debs)
	if err != nil {
		return nil, err
	}
	root, err := rootfs(ctx, pool)
	if err != nil {
		return nil, err
	}
	nginx, err := newNginx(root, versionOf(debs, "nginx"))
	if err != nil {
		return nil, err
	}
	digest, err := nginx.Digest()
	if err != nil {
		return nil, err
	}
	packed, err := archive(Ref, nginx)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "nginx.tar")
	if err := replaceFile(file, packed); err != nil {
		return nil, err
	}
	img := &Image{Archive: file, Size: int64(len(packed)), Digest: digest.String(), Nginx: versionOf(debs, "nginx")}
	return img, remember(dir, inputs, img)
}
