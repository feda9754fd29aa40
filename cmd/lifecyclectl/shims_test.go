package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
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
	for _, sub := range []string{"fd", "net", "ns"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	status := "Name:\tx\nCapEff:\t000001ffffffffff\n"
	if pid == 8 { // a container's: docker's default capabilities
		status = "Name:\tx\nCapEff:\t00000000a80425fb\n"
	}
	for name, text := range map[string]string{"cmdline": strings.Join(words, "\x00") + "\x00", "net/unix": table, "status": status} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	users := "user:[1]"
	if pid != 9 { // a user namespace of its own
		users, _ = os.Readlink("/proc/self/ns/user")
	}
	if err := os.Symlink(users, filepath.Join(dir, "ns", "user")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(fmt.Sprintf("socket:[%d]", 1000+pid), filepath.Join(dir, "fd", "3")); err != nil {
		t.Fatal(err)
	}
}

// TestAsk: a socket that never answers costs no time, and a shim that has no other
// is told of after its time.
func TestAsk(t *testing.T) {
	dir := t.TempDir()
	silent, err := net.Listen("unix", dir+"/silent") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	lifecyclev1.RegisterLifecycleService(server, answers{})
	listener, err := net.Listen("unix", dir+"/service")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), listener) }()
	defer server.Close()
	for _, sockets := range [][]string{{"silent", "service"}, {"service", "silent"}, {"silent", "silent", "service"}, {"service"}} {
		process := shimProcess{pid: 1}
		for _, socket := range sockets {
			process.sockets = append(process.sockets, dir+"/"+socket)
		}
		began := time.Now()
		s, err := process.ask(t.Context())
		if err != nil {
			t.Fatalf("%v: %v", sockets, err)
		}
		if took := time.Since(began); took >= answerWithin || len(s.containers) != 1 {
			t.Errorf("%v: %v after %s", sockets, s.containers, took)
		}
		if _, err := s.service().Status(t.Context(), &lifecyclev1.StatusRequest{}); err != nil {
			t.Errorf("%v: the connection is of no use afterwards: %v", sockets, err)
		}
		_ = s.client.Close()
	}
	if _, err := (shimProcess{pid: 7, sockets: []string{dir + "/silent", dir + "/none"}}).ask(t.Context()); err == nil || !strings.Contains(err.Error(), "shim 7 does not answer") {
		t.Errorf("got %v", err)
	}
}

// answers is a shim's service.
type answers struct{ lifecyclev1.LifecycleService }

func (answers) Status(context.Context, *lifecyclev1.StatusRequest) (*lifecyclev1.StatusResponse, error) {
	return &lifecyclev1.StatusResponse{Containers: []*lifecyclev1.ContainerStatus{{Id: "c1"}}}, nil
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
	fakeProc(t, proc, 8, "/s/8", binary, "-namespace", "a", "-id", "c", "-address", "/c.sock")
	fakeProc(t, proc, 9, "/s/9", binary, "-namespace", "a", "-id", "c", "-address", "/c.sock")
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

// TestMeant: an id that is there is that one, also where it begins others.
func TestMeant(t *testing.T) {
	var shims []*shim
	for _, id := range []string{"h10", "h1", "web"} {
		shims = append(shims, &shim{containers: []*lifecyclev1.ContainerStatus{{Id: id}}})
	}
	for prefix, want := range map[string]string{"": "h1 h10 web", "h": "h1 h10", "h1": "h1", "h10": "h10", "w": "web", "x": ""} {
		var got []string
		for _, place := range meant(shims, prefix) {
			got = append(got, place.status.Id)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q means %q, want %q", prefix, got, want)
		}
	}
}
