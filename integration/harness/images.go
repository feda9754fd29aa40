package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
)

// Images that CRI.ImportImages makes from Debian's busybox. They differ in their stop signal.
const (
	ImageBusybox      = "localhost/lifecycle-shim/busybox:test"
	ImageBusyboxQuit  = "localhost/lifecycle-shim/busybox:sigquit"  // as nginx's
	ImageBusyboxWinch = "localhost/lifecycle-shim/busybox:sigwinch" // as httpd's
	imagePause        = "localhost/lifecycle-shim/pause:test"
)

// importLimit bounds the time from an import's end to CRI knowing the image, which it learns from an event.
const importLimit = 30 * time.Second

// ImportImages makes the images and imports them, the pause image too, which every pod needs.
func (c *CRI) ImportImages(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "rootfs")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := NewRootFS(dir); err != nil {
		return err
	}
	env := []string{"PATH=/bin"}
	for ref, config := range map[string]v1.ImageConfig{
		imagePause:        {Env: env, Cmd: []string{"/bin/sleep", "2147483647"}},
		ImageBusybox:      {Env: env},
		ImageBusyboxQuit:  {Env: env, StopSignal: "SIGQUIT"},
		ImageBusyboxWinch: {Env: env, StopSignal: "SIGWINCH"},
	} {
		if err := c.importDirectory(ctx, ref, dir, config); err != nil {
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
	return c.importDirectory(ctx, ref, dir, v1.ImageConfig{Entrypoint: []string{"/" + name}})
}

func (c *CRI) importDirectory(ctx context.Context, ref, dir string, config v1.ImageConfig) error {
	archive, err := image.FromDirectory(ref, dir, config)
	if err != nil {
		return err
	}
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
