package image

import (
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// containerdName is the annotation by which containerd, on import, learns an image's full name.
const containerdName = "io.containerd.image.name"

// layout is an OCI image layout in a tar archive.
type layout struct {
	archive []byte
	digest  string // of the manifest
}

// newLayout wraps a root file system into an image of that name. The layer is not compressed: it is read
// back on the same machine within the second, and Go's compressor may change its output between releases.
// Everything in the layout is as old as date.
func newLayout(ref string, root tree, config v1.ImageConfig, date time.Time) (layout, error) {
	layer, err := root.pack()
	if err != nil {
		return layout{}, fmt.Errorf("pack the layer: %w", err)
	}
	files := layoutFiles{date: date.UTC(), files: tree{}}
	layerDesc := files.addBlob(v1.MediaTypeImageLayer, layer)
	configDesc, err := files.addJSON(v1.MediaTypeImageConfig, v1.Image{
		Created:  &files.date,
		Platform: platform(),
		Config:   config,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
	})
	if err != nil {
		return layout{}, err
	}
	manifest, err := files.addJSON(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    configDesc,
		Layers:    []v1.Descriptor{layerDesc},
	})
	if err != nil {
		return layout{}, err
	}
	if err := files.addIndex(ref, manifest); err != nil {
		return layout{}, err
	}
	archive, err := files.files.pack()
	return layout{archive: archive, digest: manifest.Digest.String()}, err
}

// newNginxLayout is newLayout for what rootfs has made.
func newNginxLayout(root tree, version string) (layout, error) {
	return newLayout(Ref, root, nginxConfig(version), root[nginxBin].modTime)
}

func nginxConfig(version string) v1.ImageConfig {
	return v1.ImageConfig{
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Entrypoint:   []string{"nginx", "-g", "daemon off;"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}},
		StopSignal:   "SIGQUIT",
		Labels: map[string]string{
			v1.AnnotationTitle:       "nginx",
			v1.AnnotationVersion:     version,
			v1.AnnotationDescription: "nginx and busybox from Debian's packages, for lifecycle-shim's demo",
		},
	}
}

func platform() v1.Platform {
	return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

// layoutFiles collects the files of a layout.
type layoutFiles struct {
	date  time.Time // of every file: a fixed one, for the same bytes each time
	files tree
}

func (l *layoutFiles) add(name string, content []byte) {
	l.files[name] = node{mode: 0o644, data: content, modTime: l.date}
}

func (l *layoutFiles) addBlob(mediaType string, content []byte) v1.Descriptor {
	d := digest.FromBytes(content)
	l.add(v1.ImageBlobsDir+"/"+d.Algorithm().String()+"/"+d.Encoded(), content)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func (l *layoutFiles) addJSON(mediaType string, v any) (v1.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("write %s: %w", mediaType, err)
	}
	return l.addBlob(mediaType, b), nil
}

func (l *layoutFiles) addIndex(ref string, manifest v1.Descriptor) error {
	p := platform()
	manifest.Platform = &p
	manifest.Annotations = map[string]string{containerdName: ref, v1.AnnotationRefName: ref}
	for name, v := range map[string]any{
		v1.ImageLayoutFile: v1.ImageLayout{Version: v1.ImageLayoutVersion},
		v1.ImageIndexFile: v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2},
			MediaType: v1.MediaTypeImageIndex,
			Manifests: []v1.Descriptor{manifest},
		},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		l.add(name, b)
	}
	return nil
}
