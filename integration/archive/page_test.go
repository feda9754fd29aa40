package archive

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

// TestPage runs the commands of docs/operate/operations.md, "Image", in their order, with the real crane and ctr. What is pushed must be
// the archive's image, for all its architectures.
func TestPage(t *testing.T) {
	blocks := docpage.Blocks(docpage.Section(docpage.Read(t, "docs/operate/operations.md"), "## Image"), "sh")
	if len(blocks) != 4 {
		t.Fatalf("the page has %d blocks of commands", len(blocks))
	}
	image := built(t)
	_, version, _ := strings.Cut(image.Name, ":")
	onOpt(t, bed.Pinned, filepath.Join(bed.BinDir(t), "ctr"), func(b *bed.Bench, opt string, run func(args ...string) string) {
		dir := b.TempDir()
		for _, file := range []string{image.File, filepath.Join(filepath.Dir(image.File), "SHA256SUMS")} {
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), read(b, file), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		for n, block := range blocks {
			server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			address := strings.TrimPrefix(server.URL, "http://")
			shell(b, dir, strings.NewReplacer("VERSION", version, "REGISTRY", address).Replace(block))
			if strings.Contains(block, "push") {
				wantPushed(b, image, address+"/lifecycle-shim:"+version)
			} else if n < 2 {
				b.Errorf("these commands push nothing:\n%s", block)
			}
			server.Close()
		}
		if names := run("--namespace", "k8s.io", "images", "ls", "-q"); names != image.Name+"\n" {
			b.Errorf("the kubelet's images are %q", names)
		}
		wantPrograms(b, filepath.Join(opt, "bin"))
	})
}

// shell runs commands with the test's containerd and with crane, which is this program under another name.
func shell(b *bed.Bench, dir, commands string) {
	b.Helper()
	path := b.TempDir()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	for program, file := range map[string]string{"crane": self, "ctr": filepath.Join(bed.BinDir(b), "ctr")} {
		if err := os.Symlink(file, filepath.Join(path, program)); err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(b.Context(), 2*bed.Limit)
	defer cancel()
	command := exec.CommandContext(ctx, "bash", "-euc", commands)
	command.Dir = dir
	command.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"), "CONTAINERD_ADDRESS="+b.Daemon.Address, "CONTAINERD_NAMESPACE="+b.Client.Namespace)
	if out, err := command.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s\n%s", err, commands, out)
	}
}

// wantPushed wants the archive's index in a registry, and behind it everything that it names.
func wantPushed(b *bed.Bench, image *Archive, reference string) {
	b.Helper()
	tag, err := name.NewTag(reference)
	if err != nil {
		b.Fatal(err)
	}
	index, err := remote.Index(tag)
	if err != nil {
		b.Fatal(err)
	}
	if digest, err := index.Digest(); err != nil || digest != image.Digest {
		b.Errorf("the registry has %s (%v), want %s", digest, err, image.Digest)
	}
	for _, entry := range image.Index.Manifests {
		pushed, err := index.Image(entry.Digest)
		if err != nil {
			b.Fatal(err)
		}
		layers, err := pushed.Layers()
		if err != nil {
			b.Fatal(err)
		}
		for _, layer := range layers {
			in, err := layer.Compressed()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, in); err != nil { // it fails if the content has another digest
				b.Error(err)
			}
			_ = in.Close()
		}
	}
}
