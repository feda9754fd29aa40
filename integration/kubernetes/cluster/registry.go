package cluster

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// registries is containerd's hosts_dir, below the cluster's directory.
const registries = "registries"

// startRegistry makes containerd pull docker.io's images, under every name and tag, from the archive.
func (c *Cluster) startRegistry(archive string) error {
	if archive == "" {
		return nil
	}
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		return fmt.Errorf("image %s: %w", archive, err)
	}
	c.registry = httptest.NewServer(oneImage(registry.New(registry.Logger(log.New(io.Discard, "", 0)))))
	tag, err := name.NewTag(strings.TrimPrefix(c.registry.URL, "http://") + "/image:latest")
	if err != nil {
		return err
	}
	if err := remote.Write(tag, img); err != nil {
		return fmt.Errorf("push %s to the tests' registry: %w", archive, err)
	}
	return writeFile(c.path(filepath.Join(registries, "docker.io", "hosts.toml")), fmt.Sprintf("server = %q\n", c.registry.URL))
}

var (
	anyName = regexp.MustCompile(`^/v2/.+/(manifests|blobs)/`)
	anyTag  = regexp.MustCompile(`/manifests/[^:]+$`) // a digest has a colon
)

// oneImage lets every name and tag be that of the one image.
func oneImage(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = anyTag.ReplaceAllString(anyName.ReplaceAllString(r.URL.Path, "/v2/image/$1/"), "/manifests/latest")
		next.ServeHTTP(w, r)
	})
}
