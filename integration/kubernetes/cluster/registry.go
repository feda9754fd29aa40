package cluster

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// registries is containerd's hosts_dir, below the cluster's directory.
const registries = "registries"

// startRegistry has docker.io's images come from the archive.
func (c *Cluster) startRegistry(archive string) error {
	if archive == "" {
		return nil
	}
	handler, err := newRegistry(archive)
	if err != nil {
		return err
	}
	c.registry = httptest.NewServer(handler)
	return writeFile(c.path(filepath.Join(registries, "docker.io", "hosts.toml")), fmt.Sprintf("server = %q\n", c.registry.URL))
}

// newRegistry serves the one image of an OCI image layout, under every name and tag. It is the reading half of the
// distribution specification.
func newRegistry(archive string) (http.Handler, error) {
	blobs, err := readBlobs(archive)
	if err != nil {
		return nil, fmt.Errorf("image layout %s: %w", archive, err)
	}
	var index v1.Index
	if err := json.Unmarshal(blobs[v1.ImageIndexFile], &index); err != nil || len(index.Manifests) != 1 {
		return nil, fmt.Errorf("image layout %s: it must have one manifest: %w", archive, err)
	}
	manifest := index.Manifests[0]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reference := path.Base(r.URL.Path)
		switch kind := path.Base(path.Dir(r.URL.Path)); {
		case r.URL.Path == "/v2/":
		case kind == "manifests" && (reference == manifest.Digest.String() || !strings.Contains(reference, ":")): // a tag has no colon
			w.Header().Set("Content-Type", manifest.MediaType)
			w.Header().Set("Docker-Content-Digest", manifest.Digest.String())
			answer(w, blobs[manifest.Digest.String()])
		case kind == "blobs" && blobs[reference] != nil:
			answer(w, blobs[reference])
		default:
			http.NotFound(w, r)
		}
	}), nil
}

func answer(w http.ResponseWriter, content []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	_, _ = w.Write(content) // the client has gone: it will say so. To HEAD nothing is written
}

// readBlobs has them by their digests, and the index by its name.
func readBlobs(archive string) (map[string][]byte, error) {
	file, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	blobs := map[string][]byte{}
	for files := tar.NewReader(file); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return blobs, nil
		}
		if err != nil {
			return nil, err
		}
		name := header.Name
		if digest, ok := strings.CutPrefix(name, v1.ImageBlobsDir+"/"); ok {
			name = strings.Replace(digest, "/", ":", 1) // sha256/… → sha256:…
		}
		if blobs[name], err = io.ReadAll(files); err != nil {
			return nil, err
		}
	}
}
