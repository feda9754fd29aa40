package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// opaque are directories in which nodes see nothing of the machine's: it may have another containerd, another network, or this product.
var opaque = []string{"etc/containerd", "etc/cni", "etc/lifecycle-shim", "opt", "usr/local", "var/lib/cni", "var/lib/lifecycle-shim", "var/log"}

// base is the layer that all nodes share, between the machine's root and their own.
func (f *Fleet) base() string { return f.files("base") }

// writeBase installs what a node has before it joins a cluster.
func (f *Fleet) writeBase(ctx context.Context) error {
	for _, dir := range opaque {
		if _, err := os.Stat("/" + dir); errors.Is(err, os.ErrNotExist) && strings.Contains(dir, "lifecycle-shim") {
			continue // the node is to have none
		}
		path := filepath.Join(f.base(), dir)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := unix.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
			return fmt.Errorf("opaque %s: %w", path, err)
		}
	}
	for from, to := range map[string]string{
		"containerd": "usr/local/bin", "ctr": "usr/local/bin", "containerd-shim-runc-v2": "usr/local/bin", "runc": "usr/local/sbin",
		"kubernetes/kubelet": "usr/local/bin", "kubernetes/kube-proxy": "usr/local/bin",
	} {
		if err := copyFile(filepath.Join(f.cfg.BinDir, from), filepath.Join(f.base(), to, filepath.Base(from)), 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(f.base(), "opt/cni"), 0o755); err != nil {
		return err
	}
	if err := os.Symlink("/usr/lib/cni", filepath.Join(f.base(), "opt/cni/bin")); err != nil {
		return err
	}
	certificate, err := os.ReadFile(f.Certificate())
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(f.base(), caFile), string(certificate)); err != nil {
		return err
	}
	return f.writeContainerdBase(ctx)
}

// writeContainerdBase makes every registry the fleet's, and writes containerd's own default configuration, as an administrator does.
func (f *Fleet) writeContainerdBase(ctx context.Context) error {
	config, err := exec.CommandContext(ctx, filepath.Join(f.cfg.BinDir, "containerd"), "config", "default").Output()
	if err != nil {
		return fmt.Errorf("containerd config default: %w", err)
	}
	text := string(config)
	for old, replacement := range map[string]string{
		"config_path = ''": "config_path = '/etc/containerd/certs.d'",
		// A machine without CAP_SYS_RESOURCE could not run a pod.
		"restrict_oom_score_adj = false": "restrict_oom_score_adj = true",
	} {
		if !strings.Contains(text, old) {
			return fmt.Errorf("containerd's default configuration has no line %q any more", old)
		}
		text = strings.Replace(text, old, replacement, 1)
	}
	pause := regexp.MustCompile(`sandbox = '(.*)'`).FindStringSubmatch(text)
	if pause == nil {
		return errors.New("containerd's default configuration names no pause image")
	}
	archive, err := pauseImage(pause[1])
	if err != nil {
		return err
	}
	return errors.Join(
		f.Registry.PushArchive(pause[1], archive),
		writeFile(filepath.Join(f.base(), "etc/containerd/config.toml"), text),
		writeFile(filepath.Join(f.base(), "etc/containerd/certs.d/_default/hosts.toml"), fmt.Sprintf("server = %q\n", "http://"+registryAddress)),
	)
}

func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

func copyFile(from, to string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		return errors.Join(err, target.Close())
	}
	return target.Close()
}
