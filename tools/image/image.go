package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	home = "https://github.com/lifecycle-shim/lifecycle-shim"
	// user is nonroot of the image's /etc/passwd, by number: a kubelet cannot tell from a name that it is not root.
	user = "65532:65532"
)

// annotations are those of https://github.com/opencontainers/image-spec/blob/main/annotations.md. They are on the index, on each
// manifest, and as labels in each configuration: registries show the first two, docker and containerd the last.
func (b build) annotations() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "lifecycle-shim",
		"org.opencontainers.image.description": "A containerd shim that runs Kubernetes lifecycle handlers, with its installer and its webhook",
		"org.opencontainers.image.source":      home,
		"org.opencontainers.image.version":     b.version,
		"org.opencontainers.image.revision":    b.revision,
		"org.opencontainers.image.created":     b.created.Format(time.RFC3339),
		"org.opencontainers.image.licenses":    "Apache-2.0",
	}
}

// index returns the index of the images for ARCH=DIR….
func (b build) index(args []string) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arg := range args {
		arch, dir, err := platform(arg)
		if err != nil {
			return nil, err
		}
		image, err := b.image(arch, dir)
		if err != nil {
			return nil, fmt.Errorf("the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return mutate.Annotations(index, b.annotations()).(v1.ImageIndex), nil
}

// image returns the image for an architecture. The files are its only layer.
func (b build) image(arch, dir string) (v1.Image, error) {
	layer, err := b.layer(dir)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: b.created}
	image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "make image"}})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, created
	config.Config = v1.Config{
		User:       user,
		Env:        []string{"PATH=/bin"},
		Cmd:        []string{"/bin/lifecyclectl"},
		WorkingDir: "/",
		Labels:     b.annotations(),
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	return mutate.Annotations(image, b.annotations()).(v1.Image), nil
}

// layer packs a directory. It is compressed once and kept in memory, because its digest and its bytes are asked for separately.
func (b build) layer(dir string) (v1.Layer, error) {
	var files bytes.Buffer
	if err := (packer{created: b.created, programs: true}).write(&files, dir); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil }
	return tarball.LayerFromOpener(open,
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
}
