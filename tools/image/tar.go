package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// packer writes tars whose bytes depend on names, contents and execute permissions alone.
type packer struct {
	created time.Time
	// programs says that files which are executable here remain so. In a layout, all files are data.
	programs bool
}

// write writes the files and directories in dir, sorted by name, a directory before its content.
func (p packer) write(out io.Writer, dir string) error {
	w := tar.NewWriter(out)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return p.add(w, path, name, entry)
	})
	return errors.Join(err, w.Close())
}

// add writes a file or a directory. Names have no "./" before them: `ctr install` looks for bin/.
func (p packer) add(w *tar.Writer, path, name string, entry fs.DirEntry) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: p.created}
	if entry.IsDir() {
		header.Typeflag, header.Name, header.Mode = tar.TypeDir, name+"/", 0o755
		return w.WriteHeader(header)
	}
	if !entry.Type().IsRegular() {
		return fmt.Errorf("%s is neither a regular file nor a directory", path)
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	if p.programs && info.Mode()&0o100 != 0 {
		header.Mode = 0o755
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	header.Size = int64(len(data))
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// writeArchive writes a tar of the layout that holds the index under its name. Its readers see the whole file or the earlier one.
func writeArchive(out string, tag name.Tag, index v1.ImageIndex, created time.Time) (err error) {
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	err = path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag.TagStr(),
		"io.containerd.image.name":          tag.Name(), // containerd's import names the image so
	}))
	if err != nil {
		return err
	}
	file, err := os.Create(out + ".new")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	if err := errors.Join(packer{created: created}.write(file, dir), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), out)
}
