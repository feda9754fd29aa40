package harness

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// busyboxPath is Debian's busybox-static: no library is needed beside it.
const busyboxPath = "/bin/busybox"

// NewRootFS makes a root filesystem in dir: busybox with all its applets in /bin, the users root, app
// (1000) and nobody, and the usual mount points. It takes about 10 ms and 2 MB, so each container gets its
// own and may spoil it.
func NewRootFS(dir string) error { return newRootFS(dir, os.Link) }

func newRootFS(dir string, link func(old, name string) error) error {
	// Readable for all: the container's process may be any user.
	for _, sub := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/share", "var"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return fmt.Errorf("root filesystem: %w", err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "tmp")} {
		mode := os.FileMode(0o755)
		if path != dir {
			mode = 0o777 | os.ModeSticky
		}
		if err := os.Chmod(path, mode); err != nil { // Mkdir's mode went through the umask
			return fmt.Errorf("root filesystem: %w", err)
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":  "root:x:0:\napp:x:1000:\nextra:x:2000:app\nnogroup:x:65534:\n",
		"etc/hosts":  "127.0.0.1 localhost\n::1 localhost\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("root filesystem: %w", err)
		}
	}
	return installBusybox(filepath.Join(dir, "bin"), link)
}

// installBusybox copies the binary, as a container may write to its own, and links the applets to it: by hard links a
// container's, as 270 symbolic ones need an inode each, which is five times the time.
func installBusybox(bin string, link func(old, name string) error) error {
	if err := copyFile(busyboxPath, filepath.Join(bin, "busybox"), 0o755); err != nil {
		return fmt.Errorf("busybox (`make deps` installs the package busybox-static): %w", err)
	}
	applets, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		return fmt.Errorf("applets of %s: %w", busyboxPath, err)
	}
	for _, name := range strings.Fields(string(applets)) {
		if name == "busybox" {
			continue
		}
		if err := link(filepath.Join(bin, "busybox"), filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("applets of busybox: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		_ = dst.Close()
		return err
	}
	return dst.Close()
}
