package image

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// lockPoll is how often a waiting builder looks whether its turn has come.
const lockPoll = 50 * time.Millisecond

// recipe is this package itself: a change of how the image is made gives a new image, with no
// version number to remember.
//
//go:embed *.go files
var recipe embed.FS

// record is what the cache knows of the image it holds.
type record struct {
	Inputs string // inputsOf the build
	SHA256 string // of the archive
	Image  Image
}

// inputsOf names everything the image is made of: the packages, the recipe, the platform.
func inputsOf(debs []deb) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.GOARCH)
	for _, d := range debs {
		b, err := os.ReadFile(d.path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %x\n", filepath.Base(d.path), sha256.Sum256(b))
	}
	err := fs.WalkDir(recipe, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := recipe.ReadFile(path)
		fmt.Fprintf(h, "%s %x\n", path, sha256.Sum256(b))
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// cached returns the image built from these inputs. Anything odd about the cache means "build it".
func cached(dir, inputs string) (*Image, bool) {
	var r record
	b, err := os.ReadFile(recordPath(dir))
	if err != nil || json.Unmarshal(b, &r) != nil || r.Inputs != inputs {
		return nil, false
	}
	r.Image.Archive = filepath.Join(dir, "nginx.tar") // the cache may have been moved
	if sum, err := sumFile(r.Image.Archive); err != nil || sum != r.SHA256 {
		return nil, false
	}
	r.Image.Cached = true
	return &r.Image, true
}

func remember(dir, inputs string, img *Image) error {
	sum, err := sumFile(img.Archive)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(record{Inputs: inputs, SHA256: sum, Image: *img}, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(recordPath(dir), append(b, '\n'))
}

func recordPath(dir string) string { return filepath.Join(dir, "nginx.json") }

func sumFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), err
}

// replaceFile writes a file so that its readers see the old content or the new, never a part.
func replaceFile(path string, content []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
