package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
)

// Images that CRI.ImportImages has, made from Debian's busybox. They differ in their stop signal.
const (
	ImageBusybox      = "localhost/lifecycle-shim/busybox:test"
	ImageBusyboxQuit  = "localhost/lifecycle-shim/busybox:sigquit"  // as nginx's
	ImageBusyboxWinch = "localhost/lifecycle-shim/busybox:sigwinch" // as httpd's
	imagePause        = "localhost/lifecycle-shim/pause:test"
)

// importLimit bounds the time from an import's end to CRI knowing the image, which it learns from an event.
var importLimit = Patience(30 * time.Second)

// busyboxImages are the archives by name. They are the same for every daemon.
var busyboxImages = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "rootfs")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// An archive would hold each hard link as a separate file.
	symbolic := func(old, name string) error { return os.Symlink(filepath.Base(old), name) }
	if err := newRootFS(dir, symbolic); err != nil {
		return nil, err
	}
	archives := map[string][]byte{}
	env := []string{"PATH=/bin"}
	for ref, config := range map[string]v1.Config{
		imagePause:        {Env: env, Cmd: []string{"/bin/sleep", "2147483647"}},
		ImageBusybox:      {Env: env},
		ImageBusyboxQuit:  {Env: env, StopSignal: "SIGQUIT"},
		ImageBusyboxWinch: {Env: env, StopSignal: "SIGWINCH"},
	} {
		if archives[ref], err = image.FromDirectory(ref, dir, config); err != nil {
			return nil, err
		}
	}
	return archives, nil
})

// ImportImages imports those, and the pause image, which every pod needs.
func (c *CRI) ImportImages(ctx context.Context, refs ...string) error {
	archives, err := busyboxImages()
	if err != nil {
		return err
	}
	for _, ref := range append(refs, imagePause) {
		if err := c.importArchive(ctx, ref, archives[ref]); err != nil {
			return err
		}
	}
	return nil
}

// ImportBinary imports an image that holds one static binary, and runs it.
func (c *CRI) ImportBinary(ctx context.Context, ref, binary string) error {
	dir, err := os.MkdirTemp("", "rootfs")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	name := filepath.Base(binary)
	if err := copyFile(binary, filepath.Join(dir, name), 0o755); err != nil {
		return fmt.Errorf("image %s: %w", ref, err)
	}
	archive, err := image.FromDirectory(ref, dir, v1.Config{Entrypoint: []string{"/" + name}})
	if err != nil {
		return err
	}
	return c.importArchive(ctx, ref, archive)
}

func (c *CRI) importArchive(ctx context.Context, ref string, archive []byte) error {
	nsCtx := c.client.Context(ctx)
	imported, err := c.client.Import(nsCtx, bytes.NewReader(archive))
	if err != nil {
		return fmt.Errorf("import %s: %w", ref, err)
	}
	for _, i := range imported { // now, and not by several containers at once
		if err := containerd.NewImage(c.client.Client, i).Unpack(nsCtx, ""); err != nil {
			return fmt.Errorf("unpack %s: %w", ref, err)
		}
	}
	return Poll(ctx, importLimit, "CRI to know "+ref, func() (bool, error) {
		status, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		return status.GetImage() != nil, err
	})
}
