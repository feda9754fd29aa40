package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Archive is an image in an OCI archive.
type Archive struct {
	File string
	// Name is the one under which containerd imports the image, with its tag.
	Name string
	// Digest is the index's.
	Digest v1.Hash
	// Index has a manifest for each of the images.
	Index  *v1.IndexManifest
	Images []*Image
}

// Image is an image for one architecture.
type Image struct {
	Arch     string
	Manifest *v1.Manifest
	Config   *v1.ConfigFile
	// Files are what is in it, by name. The names of directories end with a slash.
	Files map[string]File
}

// File is a file or directory of an image.
type File struct {
	*tar.Header
	Data []byte
}

// Find opens the only archive in a directory.
func Find(t testing.TB, dir, target string) *Archive {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "lifecycle-shim-*.oci.tar"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%d images in %s: run `make %s`", len(files), dir, target)
	}
	return open(t, files[0])
}

// open reads an archive, whose index.json must name one image. The digests of all blobs must be right.
func open(t testing.TB, file string) *Archive {
	t.Helper()
	dir := t.TempDir()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := unpack(in, dir); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	path := layout.Path(dir)
	top, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%s has %d images", file, len(manifest.Manifests))
	}
	only := manifest.Manifests[0]
	a := &Archive{File: file, Name: only.Annotations["io.containerd.image.name"], Digest: only.Digest}
	index, err := top.ImageIndex(only.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if a.Index, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	for _, entry := range a.Index.Manifests {
		a.Images = append(a.Images, readImage(t, path, index, entry))
	}
	checkBlobs(t, dir)
	return a
}

func readImage(t testing.TB, path layout.Path, index v1.ImageIndex, entry v1.Descriptor) *Image {
	t.Helper()
	if entry.Platform == nil || entry.Platform.OS != "linux" {
		t.Fatalf("a manifest is for %v", entry.Platform)
	}
	image, err := index.Image(entry.Digest)
	if err != nil {
		t.Fatal(err)
	}
	i := &Image{Arch: entry.Platform.Architecture, Files: map[string]File{}}
	if i.Manifest, err = image.Manifest(); err != nil {
		t.Fatal(err)
	}
	if i.Config, err = image.ConfigFile(); err != nil {
		t.Fatal(err)
	}
	if len(i.Manifest.Layers) != 1 || len(i.Config.RootFS.DiffIDs) != 1 || i.Config.Architecture != i.Arch {
		t.Fatalf("the image for %s has the layers %v and the configuration %+v", i.Arch, i.Manifest.Layers, i.Config)
	}
	// gzip's own program: under the race detector, Go's is ten times slower.
	layer, err := exec.CommandContext(t.Context(), "gzip", "-dc", filepath.Join(string(path), "blobs/sha256", i.Manifest.Layers[0].Digest.Hex)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if sum := sumOf(layer); sum != i.Config.RootFS.DiffIDs[0].Hex {
		t.Errorf("the layer's content has the hash %s, and the configuration %s", sum, i.Config.RootFS.DiffIDs[0])
	}
	err = each(bytes.NewReader(layer), func(header *tar.Header, data []byte) error {
		i.Files[header.Name] = File{header, data}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// checkBlobs wants the content of each blob to have the hash that is its name.
func checkBlobs(t testing.TB, dir string) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil || len(blobs) < 4 {
		t.Fatalf("the archive has the blobs %q (%v)", blobs, err)
	}
	for _, blob := range blobs {
		if sum := sumOf(read(t, blob)); sum != filepath.Base(blob) {
			t.Errorf("the blob %s has the hash %s", blob, sum)
		}
	}
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// unpack writes the files of a tar below dir.
func unpack(in io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return each(in, func(header *tar.Header, data []byte) error {
		if header.Typeflag == tar.TypeDir {
			return root.MkdirAll(filepath.Clean(header.Name), 0o755)
		}
		return root.WriteFile(header.Name, data, fs.FileMode(header.Mode).Perm())
	})
}

// each calls visit for each entry of a tar.
func each(in io.Reader, visit func(*tar.Header, []byte) error) error {
	for r := tar.NewReader(in); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := visit(header, data); err != nil {
			return err
		}
	}
}
