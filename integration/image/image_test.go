package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestLibraries(t *testing.T) {
	const depends = "libc6 (>= 2.34), libssl3t64 (>= 3.0.0) | libssl3, zlib1g (>= 1:1.1.4), libfoo1:any," +
		" iproute2, nginx-common (<< 1.22.1-9+deb12u11.1~)"
	want := []string{"libc6", "libssl3t64", "zlib1g", "libfoo1"}
	if got := libraries(depends); !slices.Equal(got, want) {
		t.Errorf("libraries = %v, want %v", got, want)
	}
	if got := libraries(""); got != nil {
		t.Errorf("libraries of an empty field = %v", got)
	}
}

func TestPlace(t *testing.T) {
	for name, want := range map[string]string{
		"./bin/busybox":               "usr/bin/busybox",
		"/lib64/ld-linux-x86-64.so.2": "usr/lib64/ld-linux-x86-64.so.2",
		"./usr/sbin/nginx":            "usr/sbin/nginx",
		"./etc/nginx/mime.types":      "etc/nginx/mime.types",
		"./libexec/x":                 "libexec/x",
		"../../etc/passwd":            "etc/passwd",
	} {
		if got := place(name); got != want {
			t.Errorf("place(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestPack(t *testing.T) {
	date := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	content := tree{
		"usr/bin/sh": {mode: 0o777, link: "busybox", modTime: date},
		"etc/motd":   {mode: 0o644, data: []byte("hello\n"), modTime: date},
		"tmp":        {mode: 0o1777, dir: true, modTime: date},
	}
	archive, err := content.pack()
	if err != nil {
		t.Fatal(err)
	}
	again, err := content.pack()
	if err != nil || !bytes.Equal(archive, again) {
		t.Errorf("packed twice, the bytes differ (%v)", err)
	}
	if end := archive[len(archive)-1024:]; !bytes.Equal(end, make([]byte, 1024)) {
		t.Error("the archive has no end marker")
	}
	var names []string
	for name, f := range read(t, archive) {
		names = append(names, name)
		if f.header.Uid != 0 || f.header.Uname != "" || !f.header.ModTime.Equal(date.Truncate(time.Second)) {
			t.Errorf("%s: owner or date is not fixed: %+v", name, f.header)
		}
	}
	slices.Sort(names)
	if want := []string{"etc/", "etc/motd", "tmp/", "usr/", "usr/bin/", "usr/bin/sh"}; !slices.Equal(names, want) {
		t.Errorf("packed %v, want %v", names, want)
	}
}

// TestArchive: the archive has the image under its name, with its configuration and the layer's files.
func TestArchive(t *testing.T) {
	root := tree{nginxBin: {mode: 0o755, data: []byte("not really nginx"), modTime: time.Unix(1e9, 0)}}
	img, err := newNginx(root, "1.22")
	if err != nil {
		t.Fatal(err)
	}
	packed, err := archive(Ref, img)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(Ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil }, &tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
	config, err := got.ConfigFile()
	if err != nil || config.Config.StopSignal != "SIGQUIT" || config.Config.Entrypoint[0] != "nginx" || config.Architecture != runtime.GOARCH {
		t.Errorf("got the configuration %+v, %v", config, err)
	}
	files := mutate.Extract(got)
	defer files.Close()
	layer, err := io.ReadAll(files)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := read(t, layer)[nginxBin]; !ok {
		t.Error("the layer has no nginx")
	}
}

// TestBuild builds the real image, from packages that `make demo` has downloaded before.
func TestBuild(t *testing.T) {
	cache := t.TempDir()
	copyDebs(t, filepath.Join(cache, "debs"))
	first := mustBuild(t, cache)
	if first.Cached || first.Size > 16<<20 || first.Nginx == "" {
		t.Errorf("first build: %+v", *first)
	}
	if again := mustBuild(t, cache); !again.Cached || again.Digest != first.Digest {
		t.Errorf("not taken from the cache: %+v", *again)
	}
	if err := os.Truncate(first.Archive, 1000); err != nil {
		t.Fatal(err)
	}
	if rebuilt := mustBuild(t, cache); rebuilt.Cached || rebuilt.Digest != first.Digest {
		t.Errorf("a damaged image was not built again to the same: %+v", *rebuilt)
	}
}

func mustBuild(t *testing.T, cache string) *Image {
	t.Helper()
	img, err := Build(t.Context(), cache, func(what string) { t.Log(what) })
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// copyDebs takes the packages from the demo's cache, which it fills where it is
// empty, so that the network is asked at most once.
func copyDebs(t *testing.T, to string) {
	t.Helper()
	const cache = "../../.cache"
	mustBuild(t, cache)
	files, err := filepath.Glob(cache + "/debs/*.deb")
	if err != nil || len(files) < len(roots)+1 {
		t.Fatalf("%d packages in %s/debs (%v)", len(files), cache, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil {
			err = errors.Join(os.MkdirAll(to, 0o755), os.WriteFile(filepath.Join(to, filepath.Base(f)), b, 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

type file struct {
	header  *tar.Header
	content []byte
}

func read(t *testing.T, archive []byte) map[string]file {
	t.Helper()
	files := map[string]file{}
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = file{h, b}
	}
}
