package trust

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestJudge: each thing that others can arrange is refused by itself (docs/spec.md#trust).
func TestJudge(t *testing.T) {
	sound := func() identity {
		return identity{
			uids: []string{"0", "0", "0", "0"}, sameUsers: true, sameMounts: true, sameRoot: true,
			executable: "/usr/bin/containerd", mode: unix.S_IFREG | 0o755,
		}
	}
	judge := func(i identity) error { return errors.Join(i.judgeUser(), i.judgeFiles(), i.judgeProgram()) }
	if err := judge(sound()); err != nil {
		t.Errorf("a containerd of root's: %v", err)
	}
	for name, c := range map[string]struct {
		edit func(*identity)
		want string
	}{
		"set-user-id program of another user": {func(i *identity) { i.uids = []string{"65534", "0", "0", "0"} }, "as root"},
		"effective uid":                       {func(i *identity) { i.uids = []string{"0", "1000", "0", "0"} }, "as root"},
		"saved uid":                           {func(i *identity) { i.uids = []string{"0", "0", "1000", "0"} }, "as root"},
		"file system uid":                     {func(i *identity) { i.uids = []string{"0", "0", "0", "1000"} }, "as root"},
		"no uids":                             {func(i *identity) { i.uids = nil }, "as root"},
		"user namespace":                      {func(i *identity) { i.sameUsers = false }, "user namespace"},
		"mount namespace":                     {func(i *identity) { i.sameMounts = false }, "mount namespace"},
		"root directory":                      {func(i *identity) { i.sameRoot = false }, "root directory"},
		"memfd":                               {func(i *identity) { i.executable = "memfd:containerd" }, "no path"},
		"program of another user":             {func(i *identity) { i.owner = 65534 }, "uid 65534 owns it"},
		"program that a group may write":      {func(i *identity) { i.mode |= 0o020 }, "may write it"},
		"program that all may write":          {func(i *identity) { i.mode |= 0o002 }, "may write it"},
		"set-user-id bit":                     {func(i *identity) { i.mode |= unix.S_ISUID }, "set-user-id"},
		"set-group-id bit":                    {func(i *identity) { i.mode |= unix.S_ISGID }, "set-user-id"},
	} {
		i := sound()
		c.edit(&i)
		if err := judge(i); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestJudgeDirectory(t *testing.T) {
	for _, c := range []struct {
		mode, owner uint32
		above, ok   bool
	}{
		{unix.S_IFDIR | 0o755, 0, false, true},
		{unix.S_IFDIR | 0o755, 0, true, true},
		{unix.S_IFDIR | 0o755, 1000, true, false},
		{unix.S_IFDIR | 0o755, 1000, false, false},
		{unix.S_IFDIR | 0o775, 0, false, false},
		{unix.S_IFDIR | 0o757, 0, true, false},
		{unix.S_IFDIR | 0o1777, 0, true, true}, // /tmp above a directory of root's
		{unix.S_IFDIR | 0o1777, 0, false, false},
		{unix.S_IFLNK | 0o777, 0, true, false},
		{unix.S_IFREG | 0o755, 0, false, false},
	} {
		if err := judgeDirectory(c.mode, c.owner, c.above); (err == nil) != c.ok {
			t.Errorf("mode %o, owner %d, above %t: %v", c.mode, c.owner, c.above, err)
		}
	}
}

func TestUidsOf(t *testing.T) {
	const status = "Name:\tUid:\\n0 0 0 0\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n"
	if got := uidsOf([]byte(status)); !slices.Equal(got, []string{"1", "2", "3", "4"}) {
		t.Errorf("got %q", got)
	}
	if got := uidsOf([]byte("Name:\tx\n")); got != nil {
		t.Errorf("got %q", got)
	}
}

// TestProgram: links are resolved, and what cannot be run or is not there is refused.
func TestProgram(t *testing.T) {
	resolved, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Program("/bin/sh"); err != nil || got != resolved {
		t.Errorf("/bin/sh: %q, %v; want %q", got, err, resolved)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "program")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, dir, filepath.Join(dir, "none"), "sh"} {
		if got, err := Program(path); err == nil {
			t.Errorf("%s is taken as %s", path, got)
		}
	}
}

// TestPlace: where root may put a configuration.
func TestPlace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root has such a place")
	}
	dir := t.TempDir()
	made := func(name string, mode os.FileMode, make func(string) error) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(make(path), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mkdir := func(path string) error { return os.Mkdir(path, 0o700) }
	touch := func(path string) error { return os.WriteFile(path, nil, 0o600) }
	open := made("open", 0o777|os.ModeSticky, mkdir)
	below := made("open/roots", 0o755, mkdir)
	his := made("his", 0o755, mkdir)
	if err := os.Chown(his, 65534, 0); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for path, culprit := range map[string]string{
		made("file", 0o640, touch):                     "",
		filepath.Join(dir, "none"):                     "",
		filepath.Join(dir, "none/at/all"):              "",
		filepath.Join(below, "none"):                   "",
		made("shared", 0o660, touch):                   filepath.Join(dir, "shared"),
		made("open/file", 0o600, touch):                open,
		filepath.Join(open, "none"):                    open,
		filepath.Join(open, "none/file"):               open,
		filepath.Join(his, "none"):                     his,
		filepath.Join(his, "conf.d/file"):              his,
		filepath.Join(link, "file"):                    link,
		filepath.Join(made("d", 0o755, mkdir), "file"): "",
		dir: dir,
	} {
		err := Place(path)
		var found *Culprit
		if errors.As(err, &found); (err == nil) != (culprit == "") || found != nil && found.Path != culprit {
			t.Errorf("%s: %v, want %q", path, err, culprit)
		}
	}
}

// TestReadFile: neither a large file nor one that never ends is read.
func TestReadFile(t *testing.T) {
	file, fifo := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "fifo")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := ReadFile(file, 5); err != nil || string(data) != "12345" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := ReadFile(file, 4); err == nil {
		t.Error("a file that is too large is read")
	}
	for _, path := range []string{fifo, "/dev/zero", "/"} {
		if _, err := ReadFile(path, 4); err == nil || !strings.Contains(err.Error(), "regular") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestHead(t *testing.T) {
	head := &Head{Most: 4}
	for _, text := range []string{"ab", "cde", "f"} {
		if n, err := head.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	if head.String() != "abcd" {
		t.Errorf("kept %q", head)
	}
}

func TestFlag(t *testing.T) {
	for _, args := range [][]string{{"c", "--config", "/x"}, {"c", "-c", "/x"}, {"c", "--log", "y", "--config=/x"}, {"c", "-c=/x", "--other"}} {
		if got := (&Process{Args: args}).Flag("config", "c"); got != "/x" {
			t.Errorf("%q: %q", args, got)
		}
	}
	for _, args := range [][]string{nil, {"c"}, {"c", "config", "/x"}, {"c", "--config"}, {"c", "--configs", "/x"}} {
		if got := (&Process{Args: args}).Flag("config", "c"); got != "" {
			t.Errorf("%q: %q", args, got)
		}
	}
}
