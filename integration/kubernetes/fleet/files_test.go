package fleet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// files are those of a node that are not its kernel's, by their path: kind, mode, owner and content of each.
type files map[string]string

// busy are directories and files that change while a node runs pods: containerd's and the kubelet's data, the pod network's addresses, logs.
var busy = []string{"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log", "/etc/cni/net.d/.lock", "/run", "/tmp", "/proc", "/sys", "/dev"}

// files finds them in the upper layer: all that was changed on a node since it was made is there.
func (n *Node) files() (files, error) {
	found := files{}
	pid, err := n.PID()
	if err != nil {
		return nil, err
	}
	upper := n.layer("upper")
	err = filepath.WalkDir(upper, func(path string, entry fs.DirEntry, err error) error {
		place := strings.TrimPrefix(path, upper)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone while we looked
		case err != nil:
			return err
		case slices.Contains(busy, place) && entry.IsDir():
			return fs.SkipDir
		case slices.Contains(busy, place), place == "":
			return nil
		}
		// Of the merged directory: what only has been copied up is no change.
		found[place], err = describe(fmt.Sprintf("/proc/%d/root%s", pid, place))
		return err
	})
	return found, err
}

func describe(path string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "absent", nil
	}
	if err != nil {
		return "", err
	}
	stat := info.Sys().(*syscall.Stat_t)
	text := fmt.Sprintf("%v %d:%d", info.Mode(), stat.Uid, stat.Gid)
	switch {
	case info.Mode().IsRegular():
		content, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(" %d bytes %x", len(content), sha256.Sum256(content))
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		text += " to " + target
	}
	return text, nil
}

// differences between two looks. What only one of them has seen in the upper layer was, or is, as in the lower ones.
func (f *Fleet) differences(before, after files) (all []string) {
	paths := maps.Clone(before)
	maps.Copy(paths, after)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		was, is := f.at(before, path), f.at(after, path)
		if was != is {
			all = append(all, fmt.Sprintf("%s: was %s, is %s", path, was, is))
		}
	}
	return all
}

func (f *Fleet) at(seen files, path string) string {
	if text, ok := seen[path]; ok {
		return text
	}
	text, err := describe(filepath.Join(f.base(), path))
	if err == nil && text == "absent" && !slices.ContainsFunc(opaque, func(dir string) bool { return strings.HasPrefix(path, "/"+dir+"/") }) {
		text, err = describe(path)
	}
	if err != nil {
		return err.Error()
	}
	return text
}

// allFiles are those of all nodes, by the node's name.
func (b *bench) allFiles() map[string]files {
	b.Helper()
	all := map[string]files{}
	for _, n := range b.Nodes {
		found, err := n.files()
		if err != nil {
			b.Fatal(err)
		}
		all[n.Name] = found
	}
	return all
}

// wantFiles fails if a node is not as it was, or its containerd still has the runtime handler.
func (b *bench) wantFiles(before map[string]files) {
	b.Helper()
	after := b.allFiles()
	for name, was := range before {
		for _, difference := range b.differences(was, after[name]) {
			b.Errorf("%s is not as it was: %s", name, difference)
		}
	}
	for _, n := range b.Nodes {
		if config, err := n.Exec(context.WithoutCancel(b.Context()), "containerd", "config", "dump"); err != nil || strings.Contains(config, "io.containerd.lifecycle.v2") {
			b.Errorf("containerd's configuration on %s still has the runtime handler: %v", n.Name, err)
		}
	}
}
