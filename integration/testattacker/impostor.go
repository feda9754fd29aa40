package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	version "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// become listens on a socket, leaves it to a child that answers, and executes a program
// that inherits it and is called name from then on.
func become(socket, name, program string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		return err
	}
	file, err := listener.(*net.UnixListener).File()
	if err != nil {
		return err
	}
	child := exec.Command("/proc/self/exe", "answer", name)
	child.ExtraFiles = []*os.File{file}
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Start(); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(file.Fd(), unix.F_SETFD, 0); err != nil { // the next program has it too
		return err
	}
	env := append(os.Environ(), "WAIT=1")
	return unix.Exec(program, []string{name, "-namespace", "default", "-address", socket, "-id", "x"}, env)
}

// answer serves the socket that is descriptor 3, as a containerd or a shim does.
func answer(name string) error {
	listener, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, "listening"); err != nil {
		return err
	}
	if !strings.Contains(name, "shim") {
		server := grpc.NewServer()
		version.RegisterVersionServer(server, daemon{})
		return server.Serve(listener)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	lifecyclev1.RegisterLifecycleService(server, words{})
	return server.Serve(context.Background(), listener)
}

// words are a stranger's, which root must not be shown as a shim's.
type words struct{ lifecyclev1.LifecycleService }

func (words) Status(context.Context, *lifecyclev1.StatusRequest) (*lifecyclev1.StatusResponse, error) {
	return &lifecyclev1.StatusResponse{Containers: []*lifecyclev1.ContainerStatus{{Id: "owned", Phase: "Running"}}}, nil
}

// abstract listens on abstract sockets, and answers on each as a shim does.
func abstract(names []string) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	lifecyclev1.RegisterLifecycleService(server, words{})
	errs := make(chan error)
	for _, name := range names {
		listener, err := net.Listen("unix", "@"+name)
		if err != nil {
			return err
		}
		go func() { errs <- server.Serve(context.Background(), listener) }()
	}
	if _, err := fmt.Fprintln(os.Stdout, "listening"); err != nil {
		return err
	}
	return <-errs
}

// wait never returns of itself: its stdin is a pipe of the test's.
func wait() error {
	_, err := os.Stdin.Read(make([]byte, 1))
	return errors.Join(errors.New("the test has ended"), err)
}
