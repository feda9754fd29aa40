package fleet

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// untar writes the regular files of an archive into dir.
func untar(archive, dir string) error {
	file, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("run `make test-image`: %w", err)
	}
	defer file.Close()
	reader := tar.NewReader(file)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
		if err := writeFile(filepath.Join(dir, filepath.Clean("/"+header.Name)), string(content)); err != nil {
			return err
		}
	}
}

// productIndex is the index of all architectures, which the layout's own index names.
func productIndex(outer v1.ImageIndex) (v1.ImageIndex, error) {
	manifest, err := outer.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) != 1 || !manifest.Manifests[0].MediaType.IsIndex() {
		return outer, nil
	}
	return outer.ImageIndex(manifest.Manifests[0].Digest)
}

// withPrograms returns the image for this machine of an index, with the programs of a directory instead of its own.
func withPrograms(index v1.ImageIndex, dir string) (v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	writer := tar.NewWriter(&layer)
	for _, name := range programs {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("run `make next`: %w", err)
		}
		header := &tar.Header{Name: "bin/" + name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(content); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
}

// programs of the image.
var programs = []string{"containerd-shim-lifecycle-v2", "lifecycle-hookexec", "lifecyclectl", "lifecycle-installer", "lifecycle-webhook"}
