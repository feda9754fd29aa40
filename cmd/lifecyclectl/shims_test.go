package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// TestAsk: a socket that never answers does not delay another one. A shim that has no other
// socket is reported when its time is up.
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
	if _, err := (shimProcess{pid: 7, sockets: []string{dir + "/silent", dir + "/none"}}).ask(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot show the containers of shim 7") {
		t.Errorf("got %v", err)
	}
}

// answers is a shim's service.
type answers struct{ lifecyclev1.LifecycleService }

func (answers) Status(context.Context, *lifecyclev1.StatusRequest) (*lifecyclev1.StatusResponse, error) {
	return &lifecyclev1.StatusResponse{Containers: []*lifecyclev1.ContainerStatus{{Id: "c1"}}}, nil
}

// crowded is a shim whose answer holds one of its two containers only.
type crowded struct{ lifecyclev1.LifecycleService }

func (crowded) Status(_ context.Context, r *lifecyclev1.StatusRequest) (*lifecyclev1.StatusResponse, error) {
	switch r.Id {
	case "":
		return &lifecyclev1.StatusResponse{Containers: []*lifecyclev1.ContainerStatus{{Id: "c1"}}, LeftOut: 1, Cut: true}, nil
	case "c1", "c2":
		return &lifecyclev1.StatusResponse{Containers: []*lifecyclev1.ContainerStatus{{Id: r.Id}}}, nil
	}
	return nil, status.Error(codes.NotFound, "no such container")
}

// TestAnswersWithoutRoom: what a shim leaves out of its answer is reported, and shown when
// it is named (FAULTS A5).
func TestAnswersWithoutRoom(t *testing.T) {
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	lifecyclev1.RegisterLifecycleService(server, crowded{})
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), listener) }()
	defer server.Close()
	for id, want := range map[string]string{"": "c1, left out 1", "c2": "c2, left out 0", "x": "c1, left out 1"} {
		s, err := shimProcess{pid: 1, sockets: []string{path}}.ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.add(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s, left out %d", s.containers[0].Id, s.leftOut); got != want {
			t.Errorf("%q: %s, want %s", id, got, want)
		}
		if complete := s.limits() == nil; complete != (id == "c2") {
			t.Errorf("%q: %v", id, s.limits())
		}
		_ = s.client.Close()
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
