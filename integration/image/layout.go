package image

import (
	"bytes"
	"fmt"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// newImage makes an image of a root file system. The layer is not compressed: it is read back on the same machine within the
// second, and the output of Go's compressor may change between releases.
func newImage(root tree, config v1.Config, date time.Time) (v1.Image, error) {
	layer, err := root.pack()
	if err != nil {
		return nil, fmt.Errorf("pack the layer: %w", err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.AppendLayers(img, static.NewLayer(layer, types.OCIUncompressedLayer))
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created, file.Config = "linux", runtime.GOARCH, v1.Time{Time: date.UTC()}, config
	return mutate.ConfigFile(img, file)
}

// archive returns the image as `docker save` does, for `ctr image import`, containerd's client and docker.
func archive(ref string, img v1.Image) ([]byte, error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = tarball.Write(tag, img, &b)
	return b.Bytes(), err
}

// newNginx makes the image of what rootfs has made.
func newNginx(root tree, version string) (v1.Image, error) {
	return newImage(root, v1.Config{
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Entrypoint:   []string{"nginx", "-g", "daemon off;"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		StopSignal:   "SIGQUIT",
		Labels:       map[string]string{"org.opencontainers.image.title": "nginx", "org.opencontainers.image.version": version},
	}, root[nginxBin].modTime)
}
