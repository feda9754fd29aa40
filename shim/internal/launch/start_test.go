package launch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// fakeManager stands for containerd's runc manager.
type fakeManager struct {
	shim.Shim
	start func(context.Context, *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error)
	stop  func(context.Context, string) (shim.StopStatus, error)
}

func (m *fakeManager) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	return m.start(ctx, params)
}

func (m *fakeManager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	return m.stop(ctx, id)
}

const testAddress = "unix:///run/containerd/s/abc"

// answers is a manager that has started a shim; saw runs meanwhile.
func answers(saw func(context.Context, *bootapi.BootstrapParams)) *fakeManager {
	return &fakeManager{start: func(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
		if saw != nil {
			saw(ctx, params)
		}
		return &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: testAddress}, nil
	}}
}

// chdirBundle makes a bundle, in a directory of bundles, the working directory.
func chdirBundle(t *testing.T, config string) string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "c1")
	if err := os.Mkdir(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if config != "" {
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(bundle)
	return bundle
}

func TestStartPrintsThePlainAddressAndNothingElse(t *testing.T) {
	chdirBundle(t, "")
	var stdout bytes.Buffer
	var namespace string
	manager := answers(func(ctx context.Context, _ *bootapi.BootstrapParams) { namespace, _ = namespaces.Namespace(ctx) })
	if err := Start(t.Context(), manager, startArgs, strings.NewReader(""), &stdout); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != testAddress {
		t.Errorf("stdout is %q", stdout.String())
	}
	if got, err := shim.ReadAddress(addressFile); err != nil || got != testAddress {
		t.Errorf("the address file says %q, %v", got, err)
	}
	if info, err := os.Stat(addressFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the address file: %v, %v", info, err)
	}
	if namespace != "ns" {
		t.Errorf("the manager was called in the namespace %q", namespace)
	}
	if _, err := os.Lstat(socketDirLink); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a link to a socket directory that no option names: %v", err)
	}
}

func TestStartRemembersTheSocketDirectory(t *testing.T) {
	chdirBundle(t, "")
	params := &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns", SocketDir: proto.String("/run/elsewhere")}
	manager := answers(func(context.Context, *bootapi.BootstrapParams) {
		// Before the shim is there: it may end at any time.
		if dir, err := os.Readlink(socketDirLink); err != nil || dir != "/run/elsewhere" {
			t.Errorf("the link leads to %q, %v", dir, err)
		}
	})
	for range 2 { // a second one finds it there
		if err := Start(t.Context(), manager, startArgs, bytes.NewReader(shimtest.Marshal(t, params)), io.Discard); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStartThatFailsPrintsNothing(t *testing.T) {
	for name, config := range map[string]string{"a single container's": "", "a pod's": `{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}`} {
		t.Run(name, func(t *testing.T) { startThatFails(t, config) })
	}
}

func startThatFails(t *testing.T, config string) {
	chdirBundle(t, config)
	refused := errors.New("refused")
	manager := &fakeManager{start: func(context.Context, *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
		return nil, refused
	}}
	var stdout bytes.Buffer
	if err := Start(t.Context(), manager, startArgs, strings.NewReader(""), &stdout); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if stdout.Len() > 0 {
		t.Errorf("stdout is %q", stdout.String())
	}
	if _, err := os.Stat(addressFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is an address file of a shim that is not: %v", err)
	}
}

// What the start action cannot do is refused before a shim is started: it would be lost.
func TestStartThatIsRefusedStartsNothing(t *testing.T) {
	manager := answers(func(context.Context, *bootapi.BootstrapParams) { t.Error("a shim is started") })
	chdirBundle(t, "")
	if err := Start(t.Context(), manager, []string{"shim", "start"}, strings.NewReader(""), io.Discard); err == nil {
		t.Error("without an id: no error")
	}
	if err := os.RemoveAll(chdirBundle(t, "")); err != nil {
		t.Fatal(err)
	}
	params := shimtest.Marshal(t, &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns", SocketDir: proto.String("/run/elsewhere")})
	err := Start(t.Context(), manager, startArgs, bytes.NewReader(params), io.Discard)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "remember the socket directory") {
		t.Errorf("without a bundle: %v", err)
	}
}

// An address file that cannot be written fails the start: a shim that ends would leave its socket.
func TestStartThatCannotNoteTheAddress(t *testing.T) {
	bundle := chdirBundle(t, "")
	if err := os.Mkdir(filepath.Join(bundle, addressFile), 0o700); err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	err := Start(t.Context(), answers(nil), startArgs, strings.NewReader(""), &stdout)
	if !errors.Is(err, unix.EISDIR) || stdout.Len() > 0 {
		t.Errorf("got %v, printed %q", err, stdout.String())
	}
}

// An address that cannot be printed fails the start.
func TestStartThatCannotPrint(t *testing.T) {
	chdirBundle(t, "")
	read, write := io.Pipe()
	_ = read.Close()
	if err := Start(t.Context(), answers(nil), startArgs, strings.NewReader(""), write); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}
