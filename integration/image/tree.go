package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// node is one file of a tree. Owner is always root: only root's files are ever packed.
type node struct {
	mode    int64
	modTime time.Time
	data    []byte
	link    string // target, for a symbolic link
	dir     bool
}

// tree is a file system in memory: path without a leading slash → node. The packages are small
// enough, and no rootfs on disk means no root rights, no umask, and nothing to clean up.
type tree map[string]node

// unpack reads the packages' files into one tree.
func unpack(ctx context.Context, debs []deb) (tree, error) {
	pool := tree{}
	for _, d := range debs {
		cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", d.path)
		out, err := output(cmd)
		if err != nil {
			return nil, err
		}
		if err := pool.addTar(strings.NewReader(out)); err != nil {
			return nil, fmt.Errorf("read %s: %w", d.path, err)
		}
	}
	return pool, nil
}

func (t tree) addTar(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		n := node{mode: h.Mode & 0o7777, modTime: h.ModTime, link: h.Linkname}
		switch h.Typeflag {
		case tar.TypeReg:
			if n.data, err = io.ReadAll(tr); err != nil {
				return err
			}
		case tar.TypeSymlink:
		default:
			continue // folders come from the paths of what is kept
		}
		t[place(h.Name)] = n
	}
}

// place is where a packaged path lives: Debian 12 still packages /bin and /lib, which are links
// into /usr on every installed system, and in this image too.
func place(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	top, _, _ := strings.Cut(name, "/")
	if slices.Contains(mergedDirs, top) {
		return "usr/" + name
	}
	return name
}

var mergedDirs = []string{"bin", "sbin", "lib", "lib64"}

// pack writes the tree as a tar archive: sorted, owned by root, its folders before their content.
func (t tree) pack() ([]byte, error) {
	full := t.withFolders()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range sortedKeys(full) {
		n := full[name]
		h := &tar.Header{Name: name, Mode: n.mode, ModTime: n.modTime, Size: int64(len(n.data)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		switch {
		case n.dir:
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case n.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, n.link
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := w.Write(n.data); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil { // writes the end of the archive: before buf is read
		return nil, err
	}
	return buf.Bytes(), nil
}

// withFolders adds the folders that the paths imply, as old as their newest content.
func (t tree) withFolders() tree {
	full := tree{}
	for _, name := range sortedKeys(t) {
		n := t[name]
		n.modTime = n.modTime.UTC().Truncate(time.Second) // whole seconds need no PAX record
		full[name] = n
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			d, ok := full[dir]
			if !ok {
				d = node{mode: 0o755, dir: true}
			}
			if d.dir && n.modTime.After(d.modTime) {
				d.modTime = n.modTime
			}
			full[dir] = d
		}
	}
	return full
}

func sortedKeys(t tree) []string {
	keys := make([]string, 0, len(t))
	for k := range t {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
