package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// State is what is at a path: a regular file, a link, or nothing (a nil pointer).
type State struct {
	Mode uint32 `json:"mode"` // as in stat(2), without the type
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	// SHA256 of the contents.
	SHA256 string `json:"sha256,omitempty"`
	// Link is the target of a link.
	Link string `json:"link,omitempty"`
	// Attributes are the extended attributes, such as SELinux's label.
	Attributes map[string][]byte `json:"attributes,omitempty"`
	// Backup is the name of a copy of the contents in the journal's directory.
	Backup string `json:"backup,omitempty"`
}

// same reports whether two states have the same contents.
func same(a, b *State) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.SHA256 == b.SHA256 && a.Link == b.Link
}

var errSpecial = errors.New("it is neither a regular file nor a link")

// stateOf returns what is at a path now.
func stateOf(path string) (*State, error) {
	var found unix.Stat_t
	err := unix.Lstat(path, &found)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	state := &State{Mode: found.Mode & 0o7777, UID: int(found.Uid), GID: int(found.Gid), Attributes: attributesOf(path)}
	switch found.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		state.Link, err = os.Readlink(path)
	case unix.S_IFREG:
		state.SHA256, err = hashOf(path)
	default:
		err = &os.PathError{Op: "inspect", Path: path, Err: errSpecial}
	}
	return state, err
}

func hashOf(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func hashOfText(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// attributesOf returns the extended attributes of a file, or nil if its file system has none.
func attributesOf(path string) map[string][]byte {
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil || n == 0 {
		return nil
	}
	found := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 4096)
		if n, err := unix.Lgetxattr(path, name, value); err == nil {
			found[name] = value[:n]
		}
	}
	return found
}

// setAttributes is best effort: a label that the policy does not allow is not restored.
func setAttributes(path string, attributes map[string][]byte) {
	for name, value := range attributes {
		_ = unix.Lsetxattr(path, name, value, 0)
	}
}

// newSuffix and oldSuffix name files beside the one that is replaced. containerd imports only names that end with .toml.
const (
	newSuffix = ".lifecycle-new"
	oldSuffix = ".lifecycle-old"
)

// stage writes a file beside the one at path, durably. mode, owner and attributes are those of like.
func stage(path string, from io.Reader, like State) error {
	to := path + newSuffix
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	err = errors.Join(err, file.Chown(like.UID, like.GID), unix.Fchmod(int(file.Fd()), like.Mode))
	if err == nil {
		setAttributes(to, like.Attributes)
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(to)
	}
	return err
}

// promote renames a staged file to its path, durably.
func promote(path string) error {
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// keepOld gives what is at path a second name, so that it can be put back even on a full disk.
func keepOld(path string) error {
	if err := os.Remove(path + oldSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Link(path, path+oldSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// putBack undoes promote after keepOld.
func putBack(path string) error {
	err := os.Rename(path+oldSuffix, path)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Remove(path) // nothing was there
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	_ = os.Remove(path + oldSuffix) // rename(2) leaves both names if they are of one file
	return errors.Join(err, syncDir(filepath.Dir(path)))
}

// tidy removes what an interrupted installation may have left beside a path.
func tidy(path string) {
	_ = os.Remove(path + newSuffix)
	_ = os.Remove(path + oldSuffix)
}

func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(ignoreEINVAL(file.Sync()), file.Close())
}

// ignoreEINVAL is for file systems whose directories cannot be synchronized.
func ignoreEINVAL(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
