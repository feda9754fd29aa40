package launch

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// FAULTS A7: what the start action makes of the socket that it finds.
func TestWillServe(t *testing.T) {
	living := &fakeLaunch{accepts: true}
	for name, test := range map[string]struct {
		socket string
		stays  bool
	}{
		"of a shim that lives": {listen(t, living), true},
		"of one that ends":     {listenEnding(t), false},
		"of an earlier build":  {listenWithout(t), true},
		"of one that dies":     {listenOnce(t), false},
		"that is not there":    {filepath.Join(t.TempDir(), "s"), false},
	} {
		t.Run(name, func(t *testing.T) {
			stays, err := willServe(t.Context(), "unix://"+test.socket, "second")
			if err != nil || stays != test.stays {
				t.Errorf("got %t, %v", stays, err)
			}
		})
	}
	if got := living.expected.Load(); got == nil || *got != "second" {
		t.Error("the living shim has not been told which container it will get")
	}
}

// fakeLaunch is the launch service of a shim.
type fakeLaunch struct {
	accepts  bool
	expected atomic.Pointer[string]
}

func (f *fakeLaunch) Expect(_ context.Context, r *lifecyclev1.ExpectRequest) (*lifecyclev1.ExpectResponse, error) {
	f.expected.Store(&r.Id)
	return &lifecyclev1.ExpectResponse{Accepted: f.accepts}, nil
}

// listen serves the launch service of a shim.
func listen(t *testing.T, launch *fakeLaunch, options ...ttrpc.ServerOpt) (socket string) {
	t.Helper()
	server, err := ttrpc.NewServer(options...)
	if err != nil {
		t.Fatal(err)
	}
	lifecyclev1.RegisterLaunchService(server, launch)
	socket = filepath.Join(t.TempDir(), "s")
	serve(t, server, socket)
	return socket
}

// listenEnding serves a shim that has decided to end, and that removes its socket when it has refused.
func listenEnding(t *testing.T) string {
	t.Helper()
	var socket string
	socket = listen(t, &fakeLaunch{}, ttrpc.WithUnaryServerInterceptor(func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		response, err := method(ctx, unmarshal)
		_ = os.Remove(socket)
		return response, err
	}))
	return socket
}

// listenWithout serves nothing that a shim serves now.
func listenWithout(t *testing.T) string {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, server, socket)
	return socket
}

// serve until the test ends.
func serve(t *testing.T, server *ttrpc.Server, socket string) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(context.Background(), listener) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
}

// listenOnce takes one connection, and ends with it.
func listenOnce(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept()
		_ = listener.Close()
		if err == nil {
			_ = conn.Close()
		}
	}()
	return socket
}

// A socket of a dead shim is removed, and one that a shim listens on is not.
func TestRemoveDead(t *testing.T) {
	t.Chdir(t.TempDir()) // a bundle
	dead := filepath.Join(t.TempDir(), "dead")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	living := filepath.Join(t.TempDir(), "living")
	other, err := net.Listen("unix", living)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_ = listener.Close()
	removeDead(t.Context(), "unix://"+living)
	unlock, err := lockGroups() // a shim is being started
	if err != nil {
		t.Fatal(err)
	}
	removeDead(t.Context(), "unix://"+dead)
	if _, err := os.Lstat(dead); err != nil {
		t.Error("a socket is removed while a shim is being started")
	}
	unlock()
	removeDead(t.Context(), "unix://"+dead)
	if _, err := os.Lstat(dead); err == nil {
		t.Error("the dead shim's socket stays")
	}
	if _, err := os.Lstat(living); err != nil {
		t.Error("the living shim's socket is removed")
	}
}

// A shim that is ending, and whose socket stays, is an error: another shim at its address would be lost.
func TestWillServeOfAnEndThatHangs(t *testing.T) {
	socket := listen(t, &fakeLaunch{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if stays, err := willServe(ctx, "unix://"+socket, "c1"); err == nil || stays {
		t.Errorf("got %t, %v", stays, err)
	}
}
