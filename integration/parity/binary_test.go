package parity

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
)

// binaries are what containerd runs, apart from its requests.
var binaries = map[string]string{stock.name: "containerd-shim-runc-v2", plain.name: "containerd-shim-lifecycle-v2"}

// action is one run of the shim's binary, in an empty bundle.
type action struct {
	name, about string
	args        []string
	stdin       func(t *testing.T, bundle string) []byte
	// files of the bundle.
	files map[string]string
	// output is the message that stdout has; nil: text.
	output func() proto.Message
}

func encoded(message proto.Message) func(*testing.T, string) []byte {
	return func(t *testing.T, _ string) []byte {
		any, err := typeurl.MarshalAnyToProto(message)
		if err != nil {
			t.Fatal(err)
		}
		return marshal(t, any)
	}
}

func marshal(t *testing.T, message proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func bootstrap(t *testing.T, bundle string) []byte {
	return marshal(t, &bootapi.BootstrapParams{
		InstanceID: "c1", Namespace: "parity", ContainerdGrpcAddress: bundle + "/c.sock", ContainerdTtrpcAddress: bundle + "/t.sock",
		ContainerdBinary: "/bin/true", SocketDir: pointer(bundle + "/s"),
	})
}

func info() proto.Message { return &types.RuntimeInfo{} }

var (
	startArgs  = []string{"-namespace", "parity", "-id", "c1", "-address", "/none/c.sock", "start"}
	deleteArgs = []string{"-namespace", "parity", "-id", "c1", "-address", "/none/c.sock", "delete"}
	actions    = []action{
		{name: "-info", about: "the runc features document, without options", args: []string{"-info"}, output: info},
		{name: "-info for runc", about: "the same with runc's options", args: []string{"-info"}, stdin: encoded(&options.Options{BinaryName: "runc"}), output: info},
		{name: "-info for crun", about: "crun's features, where it has any", args: []string{"-info"}, stdin: encoded(&options.Options{BinaryName: "crun"}), output: info},
		{name: "-info for nothing", about: "an OCI runtime that is not there", args: []string{"-info"}, stdin: encoded(&options.Options{BinaryName: "/none/runc"}), output: info},
		{name: "-info with noise", about: "a stdin that is no message", args: []string{"-info"}, stdin: func(*testing.T, string) []byte { return []byte("\xff\xff") }},
		{name: "-v", about: "the version", args: []string{"-v"}},
		{name: "unknown flag", about: "a flag that there is not", args: []string{"-nonsense"}},
		{name: "start without a namespace", about: "the start action, called wrongly", args: []string{"-id", "c1", "start"}, stdin: bootstrap},
		{name: "start without a bundle", about: "the start action where there is no config.json", args: startArgs, stdin: bootstrap},
		{name: "start with a broken bundle", about: "the start action where config.json is no JSON", args: startArgs, stdin: bootstrap, files: map[string]string{"config.json": "{"}},
		{
			name: "delete", about: "the delete action for a container that is not there", args: deleteArgs,
			files:  map[string]string{"options.json": `{"root":"RUNC"}`, "runtime": "runc"},
			output: func() proto.Message { return &taskapi.DeleteResponse{} },
		},
		{name: "delete with a broken bundle", about: "the delete action where options.json is no JSON", args: deleteArgs, files: map[string]string{"options.json": "{"}},
	}
)

// TestBinary compares what the binaries answer to containerd when it starts, asks and tidies up.
func TestBinary(t *testing.T) {
	known := newUsed()
	pass := pass{target: pinned, way: byBinary, sides: []side{plain}}
	for _, a := range actions {
		t.Run(a.name, func(t *testing.T) {
			want, got := a.run(t, stock), a.run(t, plain)
			for _, unlike := range known.unexplained(a.name, pass, plain, diff(want, got)) {
				t.Error(unlike)
			}
		})
	}
	for _, stale := range known.stale(pass) {
		t.Errorf("a known difference is gone: %s", stale)
	}
}

// run returns the exit status, what the binary has printed, and what it has made in the bundle.
func (a action) run(t *testing.T, side side) []string {
	t.Helper()
	dir := t.TempDir()
	bundle := filepath.Join(dir, "c1")
	if err := os.Mkdir(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range a.files {
		if err := os.WriteFile(filepath.Join(bundle, name), []byte(strings.ReplaceAll(text, "RUNC", dir+"/runc")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(binDir(t), binaries[side.name]), a.args...)
	cmd.Dir = bundle
	cmd.Env = []string{"PATH=" + binDir(t) + ":/usr/bin", "XDG_RUNTIME_DIR=" + dir}
	if a.stdin != nil {
		cmd.Stdin = bytes.NewReader(a.stdin(t, bundle))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	n := newNames(dir, "DIR", binDir(t), "BIN", binaries[side.name], "SHIM", side.runtime, "RUNTIME")
	report := []string{fmt.Sprintf("status %d", cmd.ProcessState.ExitCode())}
	if a.output != nil && cmd.ProcessState.Success() {
		message := a.output()
		if err := proto.Unmarshal(stdout.Bytes(), message); err != nil {
			t.Fatal(err)
		}
		for field := range strings.SplitSeq(n.message(message), " ") { // short lines tell better what differs
			report = append(report, "stdout: "+field)
		}
	} else {
		report = append(report, lines("stdout", n.text(stdout.String()))...)
	}
	report = append(report, lines("stderr", n.text(stderr.String()))...)
	entries, err := os.ReadDir(bundle)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		report = append(report, "file: "+entry.Name())
	}
	return report
}

func lines(name, text string) []string {
	var found []string
	for line := range strings.Lines(text) {
		found = append(found, name+": "+strings.TrimRight(line, "\n"))
	}
	return found
}
