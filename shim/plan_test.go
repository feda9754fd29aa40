package shim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestPlanOfABundleThatCannotBeRead: the runc service gets the options that were sent.
func TestPlanOfABundleThatCannotBeRead(t *testing.T) {
	s, _, _ := newTestService(t)
	sent := shimtest.InTOML(t, "SystemdCgroup = true")
	got, err := s.plan(&taskapi.CreateTaskRequest{ID: "c1", Bundle: t.TempDir(), Options: sent})
	if err != nil || got.options != sent || got.handlers != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestPlanForSystemd, whose cgroup is known by its path alone.
func TestPlanForSystemd(t *testing.T) {
	s, _, _ := newTestService(t)
	got, err := s.plan(&taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle(t, "system.slice:ctr:c1", map[string]string{oci.KeyOnExit: "sleep: {seconds: 1}"})})
	if err != nil {
		t.Fatal(err)
	}
	if got.options == nil || !got.handlers.runner.SystemdCgroup {
		t.Errorf("got the options %v, and for handlers %+v", got.options, got.handlers.runner)
	}
}

// TestPlanOfARestoredContainer: it has started before, so handlers of its start are not run.
func TestPlanOfARestoredContainer(t *testing.T) {
	s, _, _ := newTestService(t)
	for checkpoint, restored := range map[string]bool{"": false, "/checkpoint": true} {
		got, err := s.plan(&taskapi.CreateTaskRequest{ID: "c1", Checkpoint: checkpoint, Bundle: bundle(t, "", map[string]string{
			oci.KeyLifecycle: "{postStart: {sleep: {seconds: 1}}, preStop: {sleep: {seconds: 1}}}",
		})})
		if err != nil {
			t.Fatal(err)
		}
		machine := got.handlers.machine
		if got.handlers.restored != restored || (machine.PostStart == nil) != restored || machine.PreStop == nil {
			t.Errorf("restored: %t, got %+v", restored, got.handlers)
		}
	}
}

// TestAnswerThatIsTooLongIsDropped: an error comes in its place.
func TestAnswerThatIsTooLongIsDropped(t *testing.T) {
	s, _, _ := newTestService(t)
	answer, err := s.UnaryServerInterceptor()(t.Context(), nil, &ttrpc.UnaryServerInfo{}, func(context.Context, func(any) error) (any, error) {
		return &taskapi.StateResponse{Stdout: strings.Repeat("x", 5<<20)}, nil
	})
	if status.Code(err) != codes.ResourceExhausted || answer != nil {
		t.Errorf("got %T, %v", answer, err)
	}
}

// TestEndOfTheShimFlushes the events: a TaskDelete would be lost.
func TestEndOfTheShimFlushes(t *testing.T) {
	flags := flag.CommandLine
	defer func() { flag.CommandLine = flags }()
	flag.CommandLine = flag.NewFlagSet("shim", flag.ContinueOnError) // pkg/shim's, which end sets
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{Hang: make(chan struct{})}
		s := newService(t.Context(), shimtest.NewTask(), newTestEnding(t), newTestTap(t, publisher), nil, nil)
		shimtest.Emit(t, s.tap, "c1 delete")
		time.AfterFunc(time.Second, func() { close(publisher.Hang) })
		if err := s.end(t.Context()); err != nil {
			t.Error(err)
		}
		if seen := publisher.Seen(); len(seen) != 1 {
			t.Errorf("published at the end: %q", seen)
		}
	})
}

// TestProcessIsCounted to the descriptor, and its garbage collected only on demand.
func TestProcessIsCounted(t *testing.T) {
	s, _, _ := newTestService(t)
	for _, collect := range []bool{false, true} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		response, err := (&statusService{service: s}).Status(t.Context(), &lifecyclev1.StatusRequest{Collect: collect})
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if collected := after.NumForcedGC > before.NumForcedGC; collected != collect {
			t.Errorf("collected: %t, want %t", collected, collect)
		}
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		if got := response.Shim.Descriptors; int(got) != len(open)-1 { // without the one that is open to read them
			t.Errorf("%d descriptors, want %d", got, len(open)-1)
		}
	}
}

// TestPlan: what handlers are run with comes from the options, the spec and the settings.
func TestPlan(t *testing.T) {
	metricsFile := filepath.Join(t.TempDir(), "m.prom")
	for name, test := range map[string]struct {
		options string
		path    string
		want    runner.Config
		counts  string
	}{
		"nothing":            {"", "", runner.Config{CgroupsPath: "c1"}, ""},
		"a path":             {"", "/a/b", runner.Config{CgroupsPath: "/a/b"}, ""},
		"a path for systemd": {"", "system.slice:ctr:c1", runner.Config{CgroupsPath: "system.slice:ctr:c1", SystemdCgroup: true}, ""},
		"systemd":            {"SystemdCgroup = true", "", runner.Config{CgroupsPath: "system.slice:runc:c1", SystemdCgroup: true}, ""},
		"the rest": {
			"BinaryName = 'crun'\nNoPivotRoot = true\nNoNewKeyring = true\nOutputLimit = 5\nHandlerOutput = 'Log'\nMetricsFile = '" + metricsFile + "'", "",
			runner.Config{CgroupsPath: "c1", Runtime: "crun", NoPivotRoot: true, NoNewKeyring: true, OutputLimit: 5, LogOutput: true},
			metricsFile,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner, _ := newTestService(t)
			request := &taskapi.CreateTaskRequest{
				ID: "c1", Bundle: bundle(t, test.path, map[string]string{oci.KeyOnExit: "sleep: {seconds: 1}"}), Options: shimtest.InTOML(t, test.options),
				Stdout: "/out", Terminal: true,
			}
			got, err := s.plan(request)
			if err != nil {
				t.Fatal(err)
			}
			block := got.handlers.runner.Block
			if block.GetOnExit().GetSleep().GetSeconds() != 1 || got.handlers.metricsFile != test.counts || got.handlers.machine.OnExit == nil || got.handlers.restored {
				t.Errorf("got %+v, block %v", got.handlers, block)
			}
			want := test.want
			want.Task, want.ID, want.Bundle, want.Block, want.Stdout, want.Terminal = inner, "c1", request.Bundle, block, "/out", true
			want.OutputLimit = cmp.Or(want.OutputLimit, 4096)
			if got.handlers.runner != want {
				t.Errorf("got  %+v\nwant %+v", got.handlers.runner, want)
			}
			if len(inner.Calls()) > 0 || len(s.all()) > 0 {
				t.Errorf("planning has done something: %v, %v", inner.Calls(), s.all())
			}
		})
	}
}

// TestWithoutAHostOnlyExecIsRefused, before anything is created.
func TestWithoutAHostOnlyExecIsRefused(t *testing.T) {
	missing := errors.New("the host is not installed")
	s := newService(t.Context(), shimtest.NewTask(), newTestEnding(t), newTestTap(t, &shimtest.Publisher{}), nil, missing)
	plan := func(onExit string) (plan, error) {
		return s.plan(&taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle(t, "", map[string]string{oci.KeyOnExit: onExit})})
	}
	var refused *HandlerError
	if _, err := plan("exec: {command: [x]}"); !errors.As(err, &refused) || !errors.Is(err, missing) {
		t.Errorf("an exec: %v", err)
	}
	if _, err := plan("sleep: {seconds: 1}"); err != nil {
		t.Errorf("a sleep: %v", err)
	}
	s.host, s.hostErr = new(hookexec.Host), nil
	if got, err := plan("exec: {command: [x]}"); err != nil || got.handlers.runner.Host != s.host {
		t.Errorf("an exec, with a host: %+v, %v", got, err)
	}
}

func TestDefaultCgroup(t *testing.T) {
	if fs, systemd := defaultCgroup("c1", false), defaultCgroup("c1", true); fs != "c1" || systemd != "system.slice:runc:c1" {
		t.Errorf("got %q, %q", fs, systemd)
	}
}

func bundle(t *testing.T, cgroupsPath string, annotations map[string]string) string {
	t.Helper()
	config, err := json.Marshal(map[string]any{
		"annotations": annotations, "linux": map[string]any{"cgroupsPath": cgroupsPath},
	})
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(shimtest.WriteFile(t, "config.json", string(config)))
}

const goodHandler = `{exec: {command: ["true"]}}`

func TestCreateIsRefusedBeforeAnythingIsDone(t *testing.T) {
	for name, test := range map[string]struct {
		annotations map[string]string
		options     *anypb.Any
		code        codes.Code
		says        string
	}{
		"an invalid annotation": {
			map[string]string{oci.KeyLifecycle: "postStart: {exec: {}}"},
			nil,
			codes.InvalidArgument, oci.KeyLifecycle,
		},
		"a misspelt key":        {map[string]string{"lifecycle-shim.io/prestop": goodHandler}, nil, codes.InvalidArgument, "prestop"},
		"an unknown option":     {nil, shimtest.InTOML(t, "Nonsense = 1"), codes.InvalidArgument, "Nonsense"},
		"a type of options":     {nil, &anypb.Any{TypeUrl: "nonsense"}, codes.InvalidArgument, "nonsense"},
		"a bound of options":    {map[string]string{oci.KeyPreStop: goodHandler}, shimtest.InTOML(t, "OutputLimit = -1"), codes.InvalidArgument, "OutputLimit"},
		"no host for a handler": {map[string]string{oci.KeyPreStop: goodHandler}, nil, codes.FailedPrecondition, "install it"},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner, publisher := newTestService(t)
			response, err := s.Create(t.Context(), &taskapi.CreateTaskRequest{
				ID: "c1", Bundle: bundle(t, "", test.annotations), Options: test.options,
			})
			if response != nil || status.Code(err) != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, %v", response, err)
			}
			if len(inner.Calls()) > 0 || len(s.containers) > 0 || !passes(t, s.tap, publisher, "c1") {
				t.Errorf("something was done: %v, %v", inner.Calls(), s.containers)
			}
		})
	}
}

// TestCreateTranslatesOptions: the runc service knows runc's options only.
func TestCreateTranslatesOptions(t *testing.T) {
	runc := shimtest.Pack(t, &runcoptions.Options{BinaryName: "crun"})
	for name, test := range map[string]struct {
		options *anypb.Any
		path    string
		want    string // what the runc service finds, "" for no options at all
	}{
		"none":                    {nil, "/c1", ""},
		"runc's own":              {runc, "/c1", "crun false"},
		"TOML":                    {shimtest.InTOML(t, "BinaryName = 'crun'"), "/c1", "crun false"},
		"none, and systemd path":  {nil, "system.slice:ctr:c1", " true"},
		"TOML, and systemd path":  {shimtest.InTOML(t, "BinaryName = 'crun'"), "system.slice:ctr:c1", "crun true"},
		"runc's and systemd path": {runc, "system.slice:ctr:c1", "crun false"},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner, _ := newTestService(t)
			_, err := s.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle(t, test.path, nil), Options: test.options})
			if err != nil {
				t.Fatal(err)
			}
			got := inner.Asked("Create")[0].(*taskapi.CreateTaskRequest).Options
			if got == nil {
				if test.want != "" {
					t.Error("no options")
				}
				return
			}
			var options runcoptions.Options
			if err := typeurl.UnmarshalTo(got, &options); err != nil {
				t.Fatal(err)
			}
			if found := fmt.Sprint(options.BinaryName, " ", options.SystemdCgroup); found != test.want {
				t.Errorf("got %q, want %q", found, test.want)
			}
		})
	}
}

// TestUnreadableBundleIsTheRuntimesToRefuse: it has its own words.
func TestUnreadableBundleIsTheRuntimesToRefuse(t *testing.T) {
	s, inner, _ := newTestService(t)
	inner.Answer["Create"] = func(context.Context, any) (any, error) { return nil, fs.ErrNotExist }
	request := &taskapi.CreateTaskRequest{ID: "c1", Bundle: filepath.Join(t.TempDir(), "none")}
	if _, err := s.Create(t.Context(), request); err != fs.ErrNotExist || len(inner.Calls()) != 1 { //nolint:errorlint // the very same
		t.Errorf("got %v", err)
	}
}

func TestNewConfig(t *testing.T) {
	wanted := func(annotations map[string]string) *oci.Lifecycle {
		lifecycle, err := (&oci.Spec{Annotations: annotations}).Lifecycle()
		if err != nil {
			t.Fatal(err)
		}
		return lifecycle
	}
	defaults := options.Settings{PostStartTimeout: time.Minute, GracePeriod: 7 * time.Second}
	all := map[string]string{
		"io.kubernetes.cri.container-type":         "container",
		"io.kubernetes.pod.terminationGracePeriod": "40",
		oci.KeyLifecycle: `
preStart: {exec: {command: [a]}, timeoutSeconds: 3}
postStart: {exec: {command: [a]}, timeoutSeconds: 60, failurePolicy: Ignore}
preStop: {exec: {command: [a]}, timeoutSeconds: 5}
onExit: {exec: {command: [a]}, timeoutSeconds: 4}
stopSignal: SIGQUIT
terminationGracePeriodSeconds: 30`,
	}
	full := lifecycle.Config{
		CRI: true, StopSignal: 3, GracePeriod: 30 * time.Second,
		PostStart:               &lifecycle.Handler{Timeout: time.Minute, IgnoreFailure: true},
		PreStop:                 &lifecycle.Handler{Timeout: 5 * time.Second},
		PreStart:                &lifecycle.Handler{Timeout: 3 * time.Second},
		OnExit:                  &lifecycle.Handler{Timeout: 4 * time.Second},
		PodGracePeriod:          40 * time.Second,
		DefaultPostStartTimeout: time.Minute, DefaultGracePeriod: 7 * time.Second,
	}
	restored := full
	restored.PreStart, restored.PostStart = nil, nil
	least := lifecycle.Config{
		PostStart:               &lifecycle.Handler{},
		DefaultPostStartTimeout: time.Minute, DefaultGracePeriod: 7 * time.Second,
	}
	for name, test := range map[string]struct {
		annotations map[string]string
		restored    bool
		want        lifecycle.Config
	}{
		"everything":                {all, false, full},
		"restored: no postStart":    {all, true, restored},
		"the least":                 {map[string]string{oci.KeyPostStart: goodHandler}, false, least},
		"failurePolicy Fail, named": {map[string]string{oci.KeyPostStart: `{exec: {command: [a]}, failurePolicy: Fail}`}, false, least},
	} {
		t.Run(name, func(t *testing.T) {
			if got := newConfig(wanted(test.annotations), defaults, test.restored); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestPlanWithinTheOperatorsLimits: docs/spec.md#operator-limits.
func TestPlanWithinTheOperatorsLimits(t *testing.T) {
	const limits = "MaxTimeout = '20s'\nMaxGracePeriod = '25s'\nAllowedHandlers = ['exec', 'sleep']"
	plan := func(value string) (plan, error) {
		s, _, _ := newTestService(t)
		s.hostErr = nil
		return s.plan(&taskapi.CreateTaskRequest{
			ID: "c1", Bundle: bundle(t, "", map[string]string{oci.KeyLifecycle: value}), Options: shimtest.InTOML(t, limits),
		})
	}
	got, err := plan("preStart: {exec: {command: [a]}}\npostStart: {sleep: {seconds: 20}}\npreStop: {exec: {command: [a]}, timeoutSeconds: 20}\nonExit: {exec: {command: [a]}}")
	if err != nil {
		t.Fatal(err)
	}
	want := lifecycle.Config{
		PreStart: &lifecycle.Handler{Most: 20 * time.Second}, PostStart: &lifecycle.Handler{},
		PreStop: &lifecycle.Handler{Timeout: 20 * time.Second, Most: 20 * time.Second}, OnExit: &lifecycle.Handler{Most: 20 * time.Second},
		MaxGracePeriod: 25 * time.Second, DefaultPostStartTimeout: 2 * time.Minute, DefaultGracePeriod: 10 * time.Second,
	}
	if !reflect.DeepEqual(got.handlers.machine, want) || got.handlers.maxTimeout != 20*time.Second {
		t.Errorf("got %+v, want %+v", got.handlers, want)
	}
	for value, says := range map[string]string{
		"preStop: {exec: {command: [a]}, timeoutSeconds: 21}":                 "preStop.timeoutSeconds is 21; the operator's limit MaxTimeout is 20",
		"preStop: {tcpSocket: {port: 80}}":                                    "preStop is of type tcpSocket; the operator's limit AllowedHandlers is exec, sleep",
		"{preStop: {sleep: {seconds: 1}}, terminationGracePeriodSeconds: 26}": "terminationGracePeriodSeconds is 26; the operator's limit MaxGracePeriod is 25",
	} {
		_, err := plan(value)
		if invalid := (*oci.InvalidError)(nil); !errors.As(err, &invalid) || err.Error() != `annotation "lifecycle-shim.io/lifecycle": `+says {
			t.Errorf("%s: got %v", value, err)
		}
	}
}
