package image

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// FromDirectory returns an archive, for `ctr image import` or containerd's client, of an image of that name
// whose only layer is what dir holds. Every file in it belongs to root.
func FromDirectory(ref, dir string, config v1.Config) ([]byte, error) {
	root, err := readTree(dir)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	img, err := newImage(root, config, time.Now())
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return archive(ref, img)
}

// readTree reads a directory: its folders, regular files and symbolic links.
func readTree(dir string) (tree, error) {
	t := tree{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		n, err := readNode(path, entry)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		t[name] = n
		return err
	})
	return t, err
}

func readNode(path string, entry fs.DirEntry) (node, error) {
	info, err := entry.Info()
	if err != nil {
		return node{}, err
	}
	h, err := tar.FileInfoHeader(info, "") // knows how the sticky bit is written
	if err != nil {
		return node{}, err
	}
	n := node{mode: h.Mode, modTime: h.ModTime, dir: entry.IsDir()}
	switch {
	case entry.Type().IsRegular():
		n.data, err = os.ReadFile(path)
	case entry.Type() == fs.ModeSymlink:
		n.link, err = os.Readlink(path)
	}
	return n, err
}
