package image

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

const (
	nginxBin = "usr/sbin/nginx"
	busybox  = "usr/bin/busybox"
)

// rootfs picks what nginx and a shell need out of the packages.
func rootfs(ctx context.Context, pool tree) (tree, error) {
	nginx, ok := pool[nginxBin]
	if !ok {
		return nil, fmt.Errorf("the nginx package has no /%s", nginxBin)
	}
	root := tree{}
	if err := root.addProgram(pool, nginxBin); err != nil {
		return nil, err
	}
	if err := root.addBusybox(ctx, pool); err != nil {
		return nil, err
	}
	if err := root.addFiles(pool, nginx.modTime); err != nil {
		return nil, err
	}
	root.addSkeleton(nginx.modTime)
	root.addLicences(pool)
	return root, nil
}

// addProgram adds an executable or a library, its loader, and every library it needs in turn.
func (t tree) addProgram(pool tree, name string) error {
	if _, done := t[name]; done {
		return nil
	}
	n, ok := pool[name]
	if !ok {
		return fmt.Errorf("no package brings /%s", name)
	}
	t[name] = n
	if n.link != "" {
		target := n.link
		if !path.IsAbs(target) {
			target = path.Join("/", path.Dir(name), target)
		}
		return t.addProgram(pool, place(target))
	}
	needs, err := needsOf(pool, n.data)
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	for _, need := range needs {
		if err := t.addProgram(pool, need); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
	}
	return nil
}

// needsOf says what an ELF file asks for: its libraries and its loader.
func needsOf(pool tree, content []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	sonames, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	var needs []string
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				return nil, fmt.Errorf("read its loader's name: %w", err)
			}
			needs = append(needs, place(string(bytes.TrimRight(b, "\x00"))))
		}
	}
	for _, soname := range sonames {
		lib, ok := pool.library(soname)
		if !ok {
			return nil, fmt.Errorf("no package brings %s", soname)
		}
		needs = append(needs, lib)
	}
	return needs, nil
}

// library finds a shared library in the folders the loader looks in: usr/lib/<multiarch>.
func (t tree) library(soname string) (string, bool) {
	for name := range t {
		if ok, _ := path.Match("usr/lib/*/"+soname, name); ok {
			return name, true
		}
	}
	return "", false
}

// addBusybox adds busybox under the name of each of its applets.
func (t tree) addBusybox(ctx context.Context, pool tree) error {
	n, ok := pool[busybox]
	if !ok {
		return fmt.Errorf("the busybox-static package has no /%s", busybox)
	}
	t[busybox] = n
	applets, err := appletsOf(ctx, n.data)
	if err != nil {
		return fmt.Errorf("ask busybox for its applets: %w", err)
	}
	for _, name := range applets {
		if name != "busybox" {
			t["usr/bin/"+name] = node{mode: 0o777, link: "busybox", modTime: n.modTime}
		}
	}
	return nil
}

// appletsOf runs busybox itself: which applets it has is a choice of Debian's build.
func appletsOf(ctx context.Context, program []byte) ([]string, error) {
	dir, err := os.MkdirTemp("", "busybox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "busybox") // it acts by the name it is called by
	if err := os.WriteFile(file, program, 0o755); err != nil {
		return nil, err
	}
	out, err := output(exec.CommandContext(ctx, file, "--list"))
	return strings.Fields(out), err
}

// addFiles adds our own configuration and content, dated like the package they go with.
func (t tree) addFiles(pool tree, date time.Time) error {
	const mimeTypes = "etc/nginx/mime.types"
	n, ok := pool[mimeTypes]
	if !ok {
		return fmt.Errorf("the nginx-common package has no /%s", mimeTypes)
	}
	t[mimeTypes] = n
	for name, to := range map[string]string{
		"nginx.conf": "etc/nginx/nginx.conf",
		"index.html": "usr/share/nginx/html/index.html",
		"passwd":     "etc/passwd",
		"group":      "etc/group",
	} {
		b, err := recipe.ReadFile("files/" + name)
		if err != nil {
			return err
		}
		t[to] = node{mode: 0o644, data: b, modTime: date}
	}
	t["usr/share/nginx/html"+DrainPath] = node{mode: 0o644, data: drainBody(), modTime: date}
	return nil
}

func drainBody() []byte {
	line := "this answer takes its time, and a graceful stop lets it end.\n"
	return []byte(strings.Repeat(line, DrainSize/len(line)+1)[:DrainSize])
}

// addSkeleton adds the folders programs expect, and the links of a merged /usr.
func (t tree) addSkeleton(date time.Time) {
	for name, mode := range map[string]int64{
		"dev": 0o755, "proc": 0o755, "sys": 0o755, "root": 0o700, "run": 0o755, "tmp": 0o1777,
		"var/lib/nginx": 0o755, "var/log/nginx": 0o755, "var/www": 0o755, "var/tmp": 0o1777,
	} {
		t[name] = node{mode: mode, dir: true, modTime: date}
	}
	for _, name := range mergedDirs {
		t[name] = node{mode: 0o777, link: "usr/" + name, modTime: date}
	}
	t["var/run"] = node{mode: 0o777, link: "/run", modTime: date}
}

// addLicences keeps the copyright file of every package the image is made of.
func (t tree) addLicences(pool tree) {
	for name, n := range pool {
		if ok, _ := path.Match("usr/share/doc/*/copyright", name); ok {
			t[name] = n
		}
	}
}
