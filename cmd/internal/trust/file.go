package trust

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Program returns a program's path with all links resolved, if only root can replace or
// change the file there. Execute the path that it returns, not the one that was passed.
func Program(path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(resolved) {
		return "", fmt.Errorf("%s is not an absolute path", path)
	}
	var file unix.Stat_t
	if err := unix.Lstat(resolved, &file); err != nil {
		return "", &os.PathError{Op: "stat", Path: resolved, Err: err}
	}
	if err := judgeFile(file.Mode, file.Uid); err != nil {
		return "", fmt.Errorf("%s is not trusted: %w", path, &Culprit{resolved, err})
	}
	if err := onlyRoot(filepath.Dir(resolved)); err != nil {
		return "", fmt.Errorf("%s is not trusted: %w", path, err)
	}
	return resolved, nil
}

// Place returns nil if only root can create, replace or change a file at that path, and if
// it is a regular file or does not exist yet. The path must have no links.
func Place(path string) error {
	var file unix.Stat_t
	if unix.Lstat(path, &file) == nil {
		if err := judgeFile(file.Mode, file.Uid); err != nil {
			return &Culprit{path, err}
		}
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		err := onlyRoot(dir)
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			return err
		}
	}
}

// Culprit is a file or directory that other users than root could change.
type Culprit struct {
	Path string
	// err is the reason.
	err error
}

func (c *Culprit) Error() string { return c.Path + ": " + c.err.Error() }
func (c *Culprit) Unwrap() error { return c.err }

// judgeFile returns an error if others than root may have written a program. It also refuses
// set-user-id programs, which anyone can start with any arguments and environment.
func judgeFile(mode, owner uint32) error {
	switch {
	case mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file")
	case owner != 0:
		return fmt.Errorf("uid %d owns it", owner)
	case mode&(unix.S_IWGRP|unix.S_IWOTH) != 0:
		return fmt.Errorf("others than root may write it (its mode is %04o)", mode&0o7777)
	case mode&(unix.S_ISUID|unix.S_ISGID) != 0:
		return fmt.Errorf("it is a set-user-id or set-group-id program (its mode is %04o)", mode&0o7777)
	}
	return nil
}

// onlyRoot returns nil if only root can create or rename files in a directory and in those
// above it. It refuses links: the path must be resolved.
func onlyRoot(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%s is not an absolute path", dir)
	}
	for at, above := filepath.Clean(dir), false; ; at, above = filepath.Dir(at), true {
		var found unix.Stat_t
		if err := unix.Lstat(at, &found); err != nil {
			return &os.PathError{Op: "stat", Path: at, Err: err}
		}
		if err := judgeDirectory(found.Mode, found.Uid, above); err != nil {
			return &Culprit{at, err}
		}
		if at == "/" {
			return nil
		}
	}
}

// judgeDirectory returns an error if others than root can replace files in a directory. It
// accepts a sticky directory such as /tmp above a directory of root, because others can
// rename only their own files there. The group root is not trusted, because containers run
// with it.
func judgeDirectory(mode, owner uint32, above bool) error {
	const writable = unix.S_IWGRP | unix.S_IWOTH
	switch {
	case mode&unix.S_IFMT != unix.S_IFDIR:
		return errors.New("it is not a directory")
	case owner != 0:
		return fmt.Errorf("uid %d owns it", owner)
	case mode&writable != 0 && !(above && mode&unix.S_ISVTX != 0):
		return fmt.Errorf("others than root may write it (its mode is %04o)", mode&0o7777)
	}
	return nil
}

// ReadFile returns the contents of a regular file of at most the given size. It never blocks
// on a FIFO or a device.
func ReadFile(path string, most int64) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return data, err
}

// Head is a writer that keeps the first Most bytes and drops the rest.
type Head struct {
	Most int
	text strings.Builder
}

func (h *Head) Write(p []byte) (int, error) {
	h.text.Write(p[:min(len(p), h.Most-h.text.Len())])
	return len(p), nil
}

func (h *Head) String() string { return h.text.String() }
