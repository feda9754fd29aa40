package launch

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// startArgs are containerd's, for the container c1 of the namespace ns.
var startArgs = []string{
	"shim", "-namespace", "ns", "-address", "/run/c.sock", "-publish-binary", "/bin/containerd", "-id", "c1", "start",
}

func TestIsStart(t *testing.T) {
	for args, want := range map[string]bool{
		"shim":                       false,
		"start":                      false, // the program's own name
		"shim start":                 true,
		"shim -namespace ns start":   true,
		"shim start -namespace ns":   false,
		"shim -namespace ns delete":  false,
		"shim -namespace ns":         false,
		"shim -id start -socket x":   false,
		"shim -namespace ns restart": false,
	} {
		if got := IsStart(strings.Fields(args)); got != want {
			t.Errorf("%q: got %t", args, got)
		}
	}
}

func TestStartParams(t *testing.T) {
	t.Setenv("TTRPC_ADDRESS", "/run/c.sock.ttrpc")
	runc := &runcoptions.Options{BinaryName: "crun"}
	legacy := func(more func(*bootapi.BootstrapParams)) *bootapi.BootstrapParams {
		params := &bootapi.BootstrapParams{
			InstanceID: "c1", Namespace: "ns", ContainerdGrpcAddress: "/run/c.sock", ContainerdBinary: "/bin/containerd",
			ContainerdTtrpcAddress: "/run/c.sock.ttrpc",
		}
		if more != nil {
			more(params)
		}
		return params
	}
	current := &bootapi.BootstrapParams{
		InstanceID: "c1", Namespace: "ns", ContainerdVersion: "2.4.2", ContainerdTtrpcAddress: "/other.ttrpc",
		SocketDir: proto.String("/run/s"), LogLevel: bootapi.LogLevel_LOG_LEVEL_DEBUG,
	}
	if err := current.AddExtension(runc); err != nil {
		t.Fatal(err)
	}
	other := proto.Clone(current).(*bootapi.BootstrapParams)
	other.InstanceID = "c2"
	debug := append([]string{"shim", "-debug"}, startArgs[1:]...)
	for name, test := range map[string]struct {
		args  []string
		stdin []byte
		want  *bootapi.BootstrapParams
	}{
		"2.3 and later: BootstrapParams": {startArgs, shimtest.Marshal(t, current), current},
		"before: nothing":                {startArgs, nil, legacy(nil)},
		"before: nothing, with -debug": {debug, nil, legacy(func(p *bootapi.BootstrapParams) {
			p.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
		})},
		"before: the runtime's options": {startArgs, shimtest.Marshal(t, shimtest.Any(t, runc)), legacy(func(p *bootapi.BootstrapParams) {
			p.Extensions = []*bootapi.Extension{{Value: shimtest.Any(t, runc)}}
		})},
		"2.3 and later, cut": {startArgs, append(shimtest.Marshal(t, current), 0xff), legacy(nil)},
		"with -bundle":       {append([]string{"shim", "-bundle", "/b"}, startArgs[1:]...), nil, legacy(nil)},
		"no message at all":  {startArgs, []byte("\xff\xff\xff garbage"), legacy(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := startParams(test.args, bytes.NewReader(test.stdin))
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, test.want) {
				t.Errorf("got  %v\nwant %v", got, test.want)
			}
		})
	}
	t.Run("params of another container are not ours", func(t *testing.T) {
		got, err := startParams(startArgs, bytes.NewReader(shimtest.Marshal(t, other)))
		if err != nil {
			t.Fatal(err)
		}
		if got.InstanceID != "c1" || got.SocketDir != nil {
			t.Errorf("got %v", got)
		}
		if found, err := got.FindExtension(&runcoptions.Options{}); found || err != nil {
			t.Errorf("another container's options were taken: %t, %v", found, err)
		}
	})
	t.Run("params of another namespace are not ours", func(t *testing.T) {
		other := proto.Clone(current).(*bootapi.BootstrapParams)
		other.Namespace = "other"
		got, err := startParams(startArgs, bytes.NewReader(shimtest.Marshal(t, other)))
		if err != nil || got.Namespace != "ns" || got.SocketDir != nil {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestStartParamsThatAreRefused(t *testing.T) {
	for name, args := range map[string]string{
		"no flags":        "shim start",
		"no id":           "shim -namespace ns start",
		"no namespace":    "shim -id c1 start",
		"an empty id":     "shim -namespace ns -id= start",
		"an unknown flag": "shim -namespace ns -id c1 -nonsense start",
	} {
		t.Run(name, func(t *testing.T) {
			if params, err := startParams(strings.Fields(args), strings.NewReader("")); err == nil {
				t.Errorf("got %v", params)
			}
		})
	}
	t.Run("nothing is printed", func(t *testing.T) { // containerd shows it in its error
		stderr := os.Stderr
		defer func() { os.Stderr = stderr }()
		file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		os.Stderr = file
		_, _ = startParams([]string{"shim", "-nonsense", "start"}, strings.NewReader(""))
		if printed, err := os.ReadFile(file.Name()); err != nil || len(printed) > 0 {
			t.Errorf("%q, %v", printed, err)
		}
	})
	t.Run("help is no start", func(t *testing.T) {
		if _, err := startParams([]string{"shim", "-help", "start"}, strings.NewReader("")); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stdin that cannot be read", func(t *testing.T) {
		broken := errors.New("broken")
		if _, err := startParams(startArgs, iotest.ErrReader(broken)); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

// endless is a stdin of zeros that counts what is read.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	clear(p)
	return len(p), nil
}

// No more of stdin is read than containerd itself would.
func TestStartReadsABoundedStdin(t *testing.T) {
	stdin := &endless{}
	if _, err := startParams(startArgs, stdin); err != nil {
		t.Error(err)
	}
	if stdin.read != 10<<20 {
		t.Errorf("%d bytes are read", stdin.read)
	}
}

// FuzzStartParams: for any stdin, the container is the one that the flags
// name.
func FuzzStartParams(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("garbage"))
	f.Add(shimtest.Marshal(f, shimtest.Any(f, &runcoptions.Options{BinaryName: "crun"})))
	f.Add(shimtest.Marshal(f, &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns"}))
	f.Add(shimtest.Marshal(f, &bootapi.BootstrapParams{InstanceID: "c2", Namespace: "ns", SocketDir: proto.String("/s")}))
	f.Fuzz(func(t *testing.T, stdin []byte) {
		params, err := startParams(startArgs, bytes.NewReader(stdin))
		if err != nil {
			t.Fatalf("stdin must not make a start fail before Create can say why: %v", err)
		}
		if params.InstanceID != "c1" || params.Namespace != "ns" {
			t.Errorf("got %v", params)
		}
	})
}
