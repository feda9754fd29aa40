package fleet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
)

// registryAddress is a port of the control plane's network.
const registryAddress = apiAddress + ":5000"

// Registry stands for every registry: the nodes' containerd finds all images here, under the names that they have elsewhere.
type Registry struct {
	server    *http.Server
	transport *http.Transport
}

func (f *Fleet) startRegistry(context.Context) error {
	var listener net.Listener
	err := f.Network.In(func() (err error) {
		listener, err = net.Listen("tcp", registryAddress)
		return err
	})
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	f.Registry = &Registry{
		server:    &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: time.Minute},
		transport: &http.Transport{DialContext: f.Network.Dial},
	}
	go func() { _ = f.Registry.server.Serve(listener) }() // until Close
	return nil
}

// Push makes the nodes find an image under that name. A name with a tag that exists gets the new image.
func (r *Registry) Push(ref string, img v1.Image) error {
	target, err := r.target(ref)
	if err != nil {
		return err
	}
	if err := remote.Write(target, img, remote.WithTransport(r.transport)); err != nil {
		return fmt.Errorf("push %s to the fleet's registry: %w", ref, err)
	}
	return nil
}

// PushIndex is Push for an image of several architectures.
func (r *Registry) PushIndex(ref string, index v1.ImageIndex) error {
	target, err := r.target(ref)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(target, index, remote.WithTransport(r.transport)); err != nil {
		return fmt.Errorf("push %s to the fleet's registry: %w", ref, err)
	}
	return nil
}

// PushArchive is Push for what `docker save` writes.
func (r *Registry) PushArchive(ref string, archive []byte) error {
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }, nil)
	if err != nil {
		return fmt.Errorf("image %s: %w", ref, err)
	}
	return r.Push(ref, img)
}

// target is the name with this registry's address instead of its own.
func (r *Registry) target(ref string) (name.Reference, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	return name.ParseReference(strings.Replace(parsed.Name(), parsed.Context().RegistryStr(), registryAddress, 1), name.Insecure)
}

// Close ends it.
func (r *Registry) Close() {
	r.transport.CloseIdleConnections()
	_ = r.server.Close() // its listener and connections go
}

// pauseImage is an image of one static program that waits.
func pauseImage(ref string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "pause")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := copyFile("/bin/busybox", filepath.Join(dir, "busybox"), 0o755); err != nil {
		return nil, fmt.Errorf("pause image (`make deps` installs busybox-static): %w", err)
	}
	return image.FromDirectory(ref, dir, v1.Config{Entrypoint: []string{"/busybox", "sleep", "2147483647"}})
}
