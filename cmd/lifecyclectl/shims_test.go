package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeProc adds a process to a proc file system, with one unix socket that it
// listens on where path is not empty.
func fakeProc(t *testing.T, proc string, pid int, path string, words ...string) {
	t.Helper()
	dir := filepath.Join(proc, fmt.Sprint(pid))
	table := "Num RefCount Protocol Flags Type St Inode Path\n"
	if path != "" {
		table += fmt.Sprintf("0: 2 0 00010000 0001 01 %d %s\n1: 3 0 00000000 0001 03 7 /connected\n", 1000+pid, path)
	}
	for _, sub := range []string{"fd", "net"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"cmdline": strings.Join(words, "\x00") + "\x00", "net/unix": table} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(fmt.Sprintf("socket:[%d]", 1000+pid), filepath.Join(dir, "fd", "3")); err != nil {
		t.Fatal(err)
	}
}

// TestFindShims: those that serve, whatever their containers are called, and
// nobody else.
func TestFindShims(t *testing.T) {
	proc := t.TempDir()
	binary := "/usr/local/bin/" + shimBinary
	fakeProc(t, proc, 1, "/s/1", binary, "-namespace", "a", "-id", "delete", "-address", "/c.sock")
	fakeProc(t, proc, 2, "/s/2", binary, "-namespace", "b", "-id", "start", "-address", "/c.sock", "-debug")
	fakeProc(t, proc, 3, "/s/3", binary, "-namespace", "a", "-id", "c", "-address", "/other.sock")
	fakeProc(t, proc, 4, "/s/4", binary, "-namespace", "a", "-id", "c", "-address", "/c.sock", "start")
	fakeProc(t, proc, 5, "/s/5", binary, "-namespace", "a", "-id", "c", "-address", "/c.sock", "delete")
	fakeProc(t, proc, 6, "", binary, "-namespace", "a", "-id", "c", "-address", "/c.sock")
	fakeProc(t, proc, 7, "/s/7", "/bin/other", "-namespace", "a")
	for name, test := range map[string]struct {
		options options
		want    string
	}{
		"all":             {options{}, "[1 2 3]"},
		"of a namespace":  {options{namespace: "a"}, "[1 3]"},
		"of a containerd": {options{address: "/c.sock"}, "[1 2]"},
		"of nobody":       {options{namespace: "x"}, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := findShims(proc, &test.options)
			if err != nil {
				t.Fatal(err)
			}
			pids := []int{}
			for _, shim := range found {
				pids = append(pids, shim.pid)
				if want := fmt.Sprintf("/s/%d", shim.pid); len(shim.sockets) != 1 || shim.sockets[0] != want {
					t.Errorf("shim %d has the sockets %q", shim.pid, shim.sockets)
				}
			}
			if fmt.Sprint(pids) != test.want {
				t.Errorf("got %v, want %s", pids, test.want)
			}
		})
	}
}
