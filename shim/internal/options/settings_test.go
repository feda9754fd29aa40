package options

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

func TestShowSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	var out, errOut bytes.Buffer
	if status := Show(path, &out, &errOut); status != 0 || !strings.Contains(out.String(), `"OutputLimit":4096`) {
		t.Errorf("without a file: status %d, %q, %q", status, out.String(), errOut.String())
	}
	if err := os.WriteFile(path, []byte("MetricsFile = '/x/y.prom'\nMaxTimeout = '5m'\nAllowedHandlers = ['exec']"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	var shown struct {
		MetricsFile, DefaultGracePeriod, MaxTimeout, MaxGracePeriod string
		AllowedHandlers                                             []string
	}
	if status := Show(path, &out, &errOut); status != 0 || json.Unmarshal(out.Bytes(), &shown) != nil || shown.MetricsFile != "/x/y.prom" || shown.DefaultGracePeriod != "10s" {
		t.Errorf("status %d, %q", status, out.String())
	}
	if shown.MaxTimeout != "5m0s" || shown.MaxGracePeriod != "" || !slices.Equal(shown.AllowedHandlers, []string{"exec"}) {
		t.Errorf("it shows the limits %+v", shown)
	}
	if err := os.WriteFile(path, []byte("MetricFile = '/x/y.prom'"), 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if status := Show(path, &out, &errOut); status != 1 || out.Len() > 0 || !strings.Contains(errOut.String(), "MetricFile") || !strings.Contains(errOut.String(), path) {
		t.Errorf("a bad file: status %d, %q, %q", status, out.String(), errOut.String())
	}
}

// TestSettingsExample: deploy/config.toml changes nothing as it is, names every
// setting, and shows for each what holds without it.
func TestSettingsExample(t *testing.T) {
	const example = "../../../deploy/config.toml"
	none, err := (&Options{}).Settings(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := (&Options{}).Settings(example)
	if err != nil || !reflect.DeepEqual(got, none) {
		t.Errorf("as it is, it says %+v, %v", got, err)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	uncommented := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(uncommented, regexp.MustCompile(`(?m)^#(\w)`).ReplaceAll(text, []byte("$1")), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err = (&Options{}).Settings(uncommented)
	if !reflect.DeepEqual(got.Limits, oci.Limits{MaxTimeout: 5 * time.Minute, MaxGracePeriod: 10 * time.Minute, AllowedHandlers: oci.HandlerTypes}) {
		t.Errorf("with its comments taken away, its limits are %+v", got.Limits)
	}
	file := got.MetricsFile
	got.MetricsFile, got.Limits = "", oci.Limits{} // there are none by default
	if err != nil || !reflect.DeepEqual(got, none) || file == "" {
		t.Errorf("with its comments taken away, it says %+v, %q, %v", got, file, err)
	}
	fields := reflect.TypeFor[nodeConfig]()
	for i := range fields.NumField() {
		if name := fields.Field(i).Name; !bytes.Contains(text, []byte("\n#"+name+" = ")) {
			t.Errorf("it does not have %s", name)
		}
	}
}

func TestOutputLimitHasBounds(t *testing.T) {
	for _, limit := range []int64{0, 1, defaultOutputLimit, MaxOutputLimit} {
		for from, read := range limits(t, limit) {
			got, err := read()
			if err != nil || got.OutputLimit != int(limit) {
				t.Errorf("%s: %d: got %d, %v", from, limit, got.OutputLimit, err)
			}
		}
	}
	for _, limit := range []int64{-1, MaxOutputLimit + 1, -1 << 63, 1<<63 - 1} {
		for from, read := range limits(t, limit) {
			_, err := read()
			t.Run(fmt.Sprintf("%s %d", from, limit), func(t *testing.T) {
				refused(t, err, "OutputLimit", fmt.Sprint(limit))
			})
		}
	}
}

// limits are the places from which a limit can come.
func limits(t *testing.T, limit int64) map[string]func() (Settings, error) {
	t.Helper()
	line := fmt.Sprintf("OutputLimit = %d", limit)
	none := filepath.Join(t.TempDir(), "none.toml")
	return map[string]func() (Settings, error){
		"node": func() (Settings, error) {
			return (&Options{}).Settings(shimtest.WriteFile(t, "config.toml", line))
		},
		"TOML": func() (Settings, error) { return mustRead(t, shimtest.InTOML(t, line)).Settings(none) },
		"typed": func() (Settings, error) {
			return mustRead(t, shimtest.Pack(t, &lifecyclev1.Options{OutputLimit: &limit})).Settings(none)
		},
	}
}

// TestSettingsOfTheRuntimeWinOverTheNodes: docs/spec.md#options.
func TestSettingsOfTheRuntimeWinOverTheNodes(t *testing.T) {
	const (
		node = "DefaultPostStartTimeout = '20s'\nDefaultGracePeriod = '21s'\nOutputLimit = 22\n"
		own  = "DefaultPostStartTimeout = '30s'\nDefaultGracePeriod = '31s'\nOutputLimit = 32\n"
	)
	builtIn := Settings{120 * time.Second, 10 * time.Second, 4096, "", false, oci.Limits{}}
	for name, test := range map[string]struct {
		node    string
		options *anypb.Any
		want    Settings
	}{
		"nothing is said":     {"", nil, builtIn},
		"only the node":       {node, nil, Settings{20 * time.Second, 21 * time.Second, 22, "", false, oci.Limits{}}},
		"the node and runc's": {node, shimtest.Pack(t, &runcoptions.Options{}), Settings{20 * time.Second, 21 * time.Second, 22, "", false, oci.Limits{}}},
		"only the runtime":    {"", shimtest.InTOML(t, own), Settings{30 * time.Second, 31 * time.Second, 32, "", false, oci.Limits{}}},
		"both":                {node, shimtest.InTOML(t, own), Settings{30 * time.Second, 31 * time.Second, 32, "", false, oci.Limits{}}},
		"each says one": {
			"DefaultGracePeriod = '21s'", shimtest.InTOML(t, "OutputLimit = 0"),
			Settings{120 * time.Second, 21 * time.Second, 0, "", false, oci.Limits{}},
		},
		"counters": {
			node + "MetricsFile = '/a'", shimtest.InTOML(t, "MetricsFile = '/b'"),
			Settings{20 * time.Second, 21 * time.Second, 22, "/b", false, oci.Limits{}},
		},
		"output to the log": {
			node + "HandlerOutput = 'Log'", shimtest.InTOML(t, ""),
			Settings{20 * time.Second, 21 * time.Second, 22, "", true, oci.Limits{}},
		},
		"output not to the log, for one runtime": {
			node + "HandlerOutput = 'Log'", shimtest.InTOML(t, "HandlerOutput = 'Status'"),
			Settings{20 * time.Second, 21 * time.Second, 22, "", false, oci.Limits{}},
		},
		"typed output to the log": {
			node, shimtest.Pack(t, &lifecyclev1.Options{HandlerOutput: "Log"}),
			Settings{20 * time.Second, 21 * time.Second, 22, "", true, oci.Limits{}},
		},
		"typed": {node, shimtest.Pack(t, typedOptions(nil)), Settings{90 * time.Second, 90 * time.Second, 100, "", false, oci.Limits{}}},
		"typed, one": {
			node, shimtest.Pack(t, &lifecyclev1.Options{DefaultGracePeriod: durationpb.New(time.Second)}),
			Settings{20 * time.Second, time.Second, 22, "", false, oci.Limits{}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := shimtest.WriteFile(t, "config.toml", test.node)
			if test.node == "" {
				path = filepath.Join(t.TempDir(), "none.toml")
			}
			got, err := mustRead(t, test.options).Settings(path)
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

// TestTheStricterLimitHolds: docs/spec.md#options. A runtime's options cannot weaken the node's file.
func TestTheStricterLimitHolds(t *testing.T) {
	const node = "MaxTimeout = '5m'\nMaxGracePeriod = '10m'\nAllowedHandlers = ['sleep', 'exec']"
	ofNode := oci.Limits{MaxTimeout: 5 * time.Minute, MaxGracePeriod: 10 * time.Minute, AllowedHandlers: []string{"exec", "sleep"}}
	for name, test := range map[string]struct {
		node    string
		options *anypb.Any
		want    oci.Limits
	}{
		"none":          {"", nil, oci.Limits{}},
		"only the node": {node, nil, ofNode},
		"weaker":        {node, shimtest.InTOML(t, "MaxTimeout = '6m'\nMaxGracePeriod = '11m'\nAllowedHandlers = ['exec', 'sleep', 'httpGet']"), ofNode},
		"stricter": {
			node, shimtest.InTOML(t, "MaxTimeout = '4m'\nMaxGracePeriod = '9m'\nAllowedHandlers = ['sleep']"),
			oci.Limits{MaxTimeout: 4 * time.Minute, MaxGracePeriod: 9 * time.Minute, AllowedHandlers: []string{"sleep"}},
		},
		"only the runtime": {"", shimtest.InTOML(t, node), ofNode},
		"typed": {
			"", shimtest.Pack(t, &lifecyclev1.Options{
				MaxTimeout: durationpb.New(5 * time.Minute), MaxGracePeriod: durationpb.New(10 * time.Minute), AllowedHandlers: []string{"exec", "sleep"},
			}), ofNode,
		},
		"typed without": {node, shimtest.Pack(t, &lifecyclev1.Options{}), ofNode},
		"nothing in common": {
			"AllowedHandlers = ['exec']", shimtest.InTOML(t, "AllowedHandlers = ['sleep']"), oci.Limits{AllowedHandlers: []string{}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mustRead(t, test.options).Settings(shimtest.WriteFile(t, "config.toml", test.node))
			if err != nil || !reflect.DeepEqual(got.Limits, test.want) {
				t.Errorf("got %+v, %v; want %+v", got.Limits, err, test.want)
			}
		})
	}
	for name, options := range map[string]*lifecyclev1.Options{
		"max_timeout":      {MaxTimeout: durationpb.New(-time.Second)},
		"max_grace_period": {MaxGracePeriod: durationpb.New(0)},
		"MaxTimeout":       {MaxTimeout: durationpb.New(time.Millisecond)},
		"AllowedHandlers":  {AllowedHandlers: []string{"exec "}},
	} {
		_, err := Read(shimtest.Pack(t, options))
		refused(t, err, name)
	}
}

// TestNodeConfigThatIsRefused: docs/spec.md#settings.
func TestNodeConfigThatIsRefused(t *testing.T) {
	for name, test := range map[string]struct{ body, says string }{
		"an unknown key":      {"OutputLimits = 1", `unknown setting "OutputLimits"; allowed: DefaultPostStartTimeout, DefaultGracePeriod, OutputLimit`},
		"an option of runc's": {"BinaryName = 'crun'", "BinaryName"},
		"no TOML":             {"[[[", ""},
		"a bad duration":      {"DefaultGracePeriod = '-1s'", `DefaultGracePeriod: "-1s"`},
		"an unknown output":   {"HandlerOutput = 'log'", `HandlerOutput: "log" is neither "Status" nor "Log"`},
		"a limit of 0":        {"MaxTimeout = '0s'", `MaxTimeout: "0s" is no duration of 1 to 2147483647 whole seconds`},
		"half a second":       {"MaxGracePeriod = '1500ms'", `MaxGracePeriod: "1500ms" is no duration of 1 to 2147483647 whole seconds`},
		"a limit without end": {"MaxTimeout = '2147483648s'", "MaxTimeout"},
		"an unknown type":     {"AllowedHandlers = ['exec', 'grpc']", `AllowedHandlers: "grpc" is no type of handler; allowed: exec, httpGet, tcpSocket, sleep`},
		"no type":             {"AllowedHandlers = []", "AllowedHandlers: no type of handler is named; name at least one of exec, httpGet, tcpSocket, sleep"},
		"a list that is none": {"AllowedHandlers = 'exec'", "AllowedHandlers"},
		"a relative path":     {"MetricsFile = 'a.prom'", `MetricsFile: "a.prom" is no absolute path`},
	} {
		t.Run(name, func(t *testing.T) {
			path := shimtest.WriteFile(t, "config.toml", test.body)
			_, err := (&Options{}).Settings(path)
			refused(t, err, path, test.says)
		})
	}
	t.Run("a file that cannot be read", func(t *testing.T) {
		dir := t.TempDir()
		_, err := (&Options{}).Settings(dir)
		refused(t, err, dir)
	})
}

// TestWarningOfNodeConfig: one line, also where no container has handlers, and
// none for a file that is good or not there.
func TestWarningOfNodeConfig(t *testing.T) {
	for name, test := range map[string]struct {
		path string
		says string // empty: nothing is logged
	}{
		"wrong":     {shimtest.WriteFile(t, "config.toml", "DefaultGracePeriod = 'soon'"), "DefaultGracePeriod"},
		"no file":   {t.TempDir(), "is a directory"},
		"good":      {shimtest.WriteFile(t, "config.toml", "DefaultGracePeriod = '1s'"), ""},
		"not there": {filepath.Join(t.TempDir(), "none.toml"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var written strings.Builder
			logger := logrus.New()
			logger.SetOutput(&written)
			WarnOfNode(log.WithLogger(t.Context(), logrus.NewEntry(logger)), test.path)
			if test.says == "" {
				if written.Len() > 0 {
					t.Errorf("it logs %q", written.String())
				}
				return
			}
			line, more, _ := strings.Cut(written.String(), "\n")
			for _, part := range []string{"level=warning", "handlers will be refused", test.path, test.says} {
				if !strings.Contains(line, part) {
					t.Errorf("%q does not say %q", line, part)
				}
			}
			if more != "" {
				t.Errorf("it logs more: %q", more)
			}
		})
	}
}

// TestOutputLimitIsAMiB (docs/spec.md#settings): with an error around it, it fits into a message of ttrpc.
func TestOutputLimitIsAMiB(t *testing.T) {
	if MaxOutputLimit != 1<<20 {
		t.Errorf("it is %d bytes", MaxOutputLimit)
	}
}

// brokenWriter is a pipe whose reader has gone.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestShowFailsIfItCannotWrite(t *testing.T) {
	var errOut bytes.Buffer
	if status := Show(filepath.Join(t.TempDir(), "none"), brokenWriter{}, &errOut); status != 1 || !strings.Contains(errOut.String(), io.ErrClosedPipe.Error()) {
		t.Errorf("status %d, %q", status, errOut.String())
	}
}
