package launch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/types/known/anypb"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// featuresManager answers -info with these features, nil for none, and an error. It keeps what it is asked.
type featuresManager struct {
	shim.Shim
	features *anypb.Any
	err      error
	asked    *[]byte
}

func (m featuresManager) Info(_ context.Context, options io.Reader) (*types.RuntimeInfo, error) {
	if m.asked != nil {
		*m.asked, _ = io.ReadAll(options)
	}
	return &types.RuntimeInfo{Name: RuntimeName, Features: m.features}, m.err
}

// The runc manager is given runc's options, and nothing if there are none. Its error is the answer.
func TestInfoAsksTheRuncManager(t *testing.T) {
	refused := errors.New("runc cannot be found")
	for name, test := range map[string]struct{ options, asked *anypb.Any }{
		"none":    {nil, nil},
		"a table": {shimtest.InTOML(t, "BinaryName = 'crun'"), shimtest.Pack(t, &runcoptions.Options{BinaryName: "crun"})},
	} {
		var asked []byte
		m := &Manager{Shim: featuresManager{err: refused, asked: &asked}}
		_, err := m.Info(t.Context(), bytes.NewReader(shimtest.Marshal(t, test.options)))
		if !errors.Is(err, refused) || !bytes.Equal(asked, shimtest.Marshal(t, test.asked)) {
			t.Errorf("%s: got %v, asked with %q", name, err, asked)
		}
	}
}

// FAULTS C5: user namespaces are promised only with options that containerd can pass on with them. Everything else that
// the OCI runtime can do is promised with every form of options.
func TestC5InfoPromisesUserNamespaces(t *testing.T) {
	enabled := true
	runcs := &features.Features{
		MountOptions: []string{"ro", "rro"},
		Linux: &features.Linux{
			Namespaces:      []string{"cgroup", "user", "uts"},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &enabled}},
		},
	}
	for name, test := range map[string]struct {
		options  *anypb.Any
		promised bool
	}{
		"no options":                 {nil, true},
		"runc's own":                 {shimtest.Any(t, &runcoptions.Options{SystemdCgroup: true}), true},
		"runc's own, empty":          {shimtest.Any(t, &runcoptions.Options{}), true},
		"an empty table of our type": {shimtest.Any(t, &runtimeoptions.Options{}), true},
		"a table of our type":        {shimtest.InTOML(t, "SystemdCgroup = true"), false},
		"a table with our settings":  {shimtest.InTOML(t, "DefaultGracePeriod = '3s'"), false},
		"typed":                      {shimtest.Any(t, &lifecyclev1.Options{Runc: &runcoptions.Options{BinaryName: "crun"}}), false},
		"typed, without runc's":      {shimtest.Any(t, &lifecyclev1.Options{MetricsFile: "/m"}), false},
		"a table of comments only":   {shimtest.InTOML(t, "# nothing"), false}, // it has bytes
	} {
		t.Run(name, func(t *testing.T) {
			m := &Manager{Shim: featuresManager{features: shimtest.Pack(t, runcs)}}
			info, err := m.Info(t.Context(), bytes.NewReader(shimtest.Marshal(t, test.options)))
			if err != nil {
				t.Fatal(err)
			}
			var got features.Features
			if err := typeurl.UnmarshalTo(info.Features, &got); err != nil {
				t.Fatal(err)
			}
			if promised := slices.Contains(got.Linux.Namespaces, "user"); promised != test.promised {
				t.Errorf("user namespaces are promised: %t, want %t", promised, test.promised)
			}
			if others := slices.DeleteFunc(got.Linux.Namespaces, func(name string) bool { return name == "user" }); !slices.Equal(others, []string{"cgroup", "uts"}) {
				t.Errorf("namespaces %q: others are lost or made", others)
			}
			if !slices.Contains(got.MountOptions, "rro") || !*got.Linux.MountExtensions.IDMap.Enabled {
				t.Errorf("%+v: recursive read-only or ID-mapped mounts are lost", got)
			}
		})
	}
}

// An OCI runtime that reports no features, or none of Linux, is not made to have any.
func TestInfoOfARuntimeWithoutFeatures(t *testing.T) {
	for name, reported := range map[string]*anypb.Any{"none": nil, "none of Linux": shimtest.Pack(t, &features.Features{MountOptions: []string{"rro"}})} {
		t.Run(name, func(t *testing.T) {
			m := &Manager{Shim: featuresManager{features: reported}}
			info, err := m.Info(t.Context(), bytes.NewReader(shimtest.Marshal(t, shimtest.InTOML(t, "SystemdCgroup = true"))))
			if err != nil || info.GetName() != RuntimeName || info.GetFeatures() != reported {
				t.Errorf("%v, %v", info, err)
			}
		})
	}
}

// What cannot be read or translated is an error, and no more is read than containerd itself would.
func TestInfoThatFails(t *testing.T) {
	m := &Manager{Shim: featuresManager{features: &anypb.Any{TypeUrl: typeurlOf(t, &features.Features{}), Value: []byte("{")}}}
	if _, err := m.Info(t.Context(), bytes.NewReader(shimtest.Marshal(t, shimtest.InTOML(t, "SystemdCgroup = true")))); err == nil {
		t.Error("features that are no JSON: no error")
	}
	broken := errors.New("broken")
	if _, err := m.Info(t.Context(), iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	stdin := &endless{}
	if _, err := m.Info(t.Context(), stdin); err == nil || stdin.read != 10<<20 {
		t.Errorf("%d bytes are read: %v", stdin.read, err)
	}
}

func typeurlOf(t *testing.T, value any) string {
	t.Helper()
	return shimtest.Pack(t, value).TypeUrl
}
