package attack

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// A Create that is refused or fails leaves no shim, cgroup, mount, socket or file, for any error, alone and in a
// pod's shared shim (docs/spec.md#failed-create, FAULTS A1).

// refusal is a Create that cannot succeed.
type refusal struct {
	annotations bed.Annotations
	edit        func(*harness.ContainerConfig)
	// patience of the client, 0: it has time. The runtime is slower then.
	patience time.Duration
	runtime  string
	Talking  string
}

// refusals need the bench's directories.
func refusals(b *bed.Bench) map[string]refusal {
	b.Helper()
	return map[string]refusal{
		"an invalid annotation":       {annotations: bed.Annotations{bed.KeyPostStart: "exec: {}"}, Talking: bed.KeyPostStart},
		"A1: a key 500 times":         {annotations: bed.Annotations{bed.KeyLifecycle: strings.Repeat("a:\n", 500)}, Talking: bed.KeyLifecycle},
		"a value of 200 KB":           {annotations: bed.Annotations{bed.KeyLifecycle: strings.Repeat("<", 200_000)}, Talking: bed.KeyLifecycle},
		"invalid options":             {annotations: bed.Annotations{}, edit: bed.WithOptions(b, "Nonsense = 1"), Talking: "Nonsense"},
		"invalid options, 1 MB":       {annotations: bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, edit: bed.WithOptions(b, strings.Repeat("Nonsense_", 100_000)+" = 1"), Talking: "Nonsense"},
		"a runtime that is not there": {annotations: bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, edit: fakeRuntime(b, "/does/not/exist"), Talking: "/does/not/exist"},
		"an error of 5 MB":            {annotations: bed.Annotations{}, edit: fakeRuntime(b, scriptOf(b, wordy)), Talking: "runtime"},
		"that error, with handlers":   {annotations: bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, edit: fakeRuntime(b, scriptOf(b, wordy)), Talking: "runtime"},
		"a program that is not there": {annotations: bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, edit: command("/does/not/exist"), Talking: "/does/not/exist"},
		"a program with a long name":  {annotations: bed.Annotations{}, edit: command("/" + strings.Repeat("<", 5_000)), Talking: "<<<"},
		"a preparation that fails":    {annotations: bed.Annotations{bed.KeyPreStart: bed.Shell("true")}, edit: fakeRuntime(b, scriptOf(b, spoils)), Talking: "lifecycle handlers: "},
		"a client that gives up":      slow(b, bed.Annotations{}),
		"that client, with handlers":  slow(b, bed.Annotations{bed.KeyPreStart: bed.Shell("true")}),
		"that client, with postStart": slow(b, bed.Annotations{bed.KeyPostStart: bed.Shell("true")}),
	}
}

func slow(b *bed.Bench, annotations bed.Annotations) refusal {
	b.Helper()
	path := scriptOf(b, slowly)
	return refusal{annotations: annotations, edit: fakeRuntime(b, path), patience: time.Second, runtime: path, Talking: "deadline"}
}

const (
	// spoils is a runtime that leaves no config.json that the handler host can read.
	spoils = `runc "$@" || exit
		case "$*" in *" create "*) for word; do [ "$last" = --bundle ] && echo '{}' > "$word/config.json"; last=$word; done;; esac; exit 0`
	// wordy is a runtime with an error of 5 MB, in its log, as runc reports errors (go-runc, getLastRuntimeError).
	wordy = `for word; do [ "$last" = --log ] && log=$word; last=$word; done
		case "$*" in *" create "*) ;; *) exec runc "$@";; esac
		(printf '{"level":"error","msg":"the runtime has failed: '; head -c 5000000 /dev/zero | tr '\0' '<'; printf '"}\n') > "$log"; exit 1`
	// slowly is a runtime that takes its time to create a container, and says when it has done so.
	slowly = `case "$*" in *" create "*) sleep 3; runc "$@"; code=$?; touch "$0.done"; exit $code;; esac; exec runc "$@"`
)

func scriptOf(b *bed.Bench, text string) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		b.Fatal(err)
	}
	return path
}

// fakeRuntime is another OCI runtime.
func fakeRuntime(b *bed.Bench, path string) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) {
		config.Options = &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "Root = %q\nBinaryName = %q\n", b.Daemon.RuncRoot, path)}
	}
}

func command(path string) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) { config.Args = []string{path} }
}

// refuse makes the Create, and wants it to fail and to leave nothing.
func refuse(b *bed.Bench, name string, r refusal, member func(*harness.ContainerConfig)) {
	b.Helper()
	before := snapshot(b)
	c := b.NewContainer(r.annotations, bed.Forever, func(config *harness.ContainerConfig) {
		if r.edit != nil {
			r.edit(config)
		}
		if member != nil {
			member(config)
		}
	})
	ctx, cancel := context.WithTimeout(b.Context(), cmp.Or(r.patience, bed.Limit))
	defer cancel()
	_, err := c.Create(ctx)
	if err == nil {
		b.Fatalf("%s: the container is created", name)
	}
	if wantBounded(b, err); !strings.Contains(err.Error(), r.Talking) || strings.Contains(err.Error(), "ttrpc: closed") {
		b.Errorf("%s: the error does not say %q: %.300q", name, r.Talking, err)
	}
	if r.patience > 0 {
		b.Poll("the runtime to have created the container", func() bool {
			_, err := os.Stat(r.runtime + ".done")
			return err == nil
		})
	}
	wantNothingNew(b, name, before, c.ID)
}

func snapshot(b *bed.Bench) harness.Snapshot {
	b.Helper()
	before, err := b.Watch.TakeSnapshot()
	if err != nil {
		b.Fatal(err)
	}
	return before
}

func wantNothingNew(b *bed.Bench, name string, before harness.Snapshot, id string) {
	b.Helper()
	leaks, err := b.Watch.Leaks(b.Context(), before)
	if err != nil {
		b.Fatal(err)
	}
	b.Poll("the directories of "+name+" to go", func() bool {
		return !slices.ContainsFunc(b.Daemon.Leftovers(), func(path string) bool {
			return filepath.Base(path) == id && filepath.Base(filepath.Dir(filepath.Dir(path))) != "c" // the harness's own
		})
	})
	for _, leak := range leaks {
		b.Errorf("%s leaves %s", name, leak)
	}
}

func TestRefusedCreateLeavesNothing(t *testing.T) {
	bed.OnOwn(t, []bed.Target{bed.Pinned, bed.Oldest}, func(b *bed.Bench) {
		for name, r := range refusals(b) {
			if refuse(b, name+", alone", r, nil); b.Failed() {
				return
			}
		}
		p := b.NewGroup()
		for name, r := range refusals(b) {
			refuse(b, name+", in a pod", r, p.Member)
		}
		refuseRaw(b, p)
		p.WantUnharmed()
	})
}

// refuseRaw makes Creates that containerd does not make: of an id that there is, and over a connection that goes.
func refuseRaw(b *bed.Bench, p *bed.Group) {
	b.Helper()
	address, err := b.Daemon.ShimAddress(b.Client.Namespace, p.Bystander.ID)
	if err != nil {
		b.Fatal(err)
	}
	bundle := copyBundle(b, p.Bystander, "raw")
	before := snapshot(b)
	options, err := typeurl.MarshalAnyToProto(b.Options(""))
	if err != nil {
		b.Fatal(err)
	}
	client := dialShim(b, address)
	_, err = client.Create(b.Context(), &taskapi.CreateTaskRequest{ID: p.Bystander.ID, Bundle: bundle, Options: options})
	if status.Code(err) != codes.AlreadyExists {
		b.Errorf("a Create of an id that exists: %v", err)
	}
	_ = client.connection.Close()
	wantNothingNew(b, "an id that exists", before, "")
	// The connection goes after 50 ms at most, regardless of what the runtime is doing.
	for i := range 10 {
		ctx, cancel := context.WithTimeout(b.Context(), time.Duration(i)*5*time.Millisecond)
		short := dialShim(b, address)
		id := fmt.Sprintf("raw%d", i)
		if _, err := short.Create(ctx, &taskapi.CreateTaskRequest{ID: id, Bundle: copyBundle(b, p.Bystander, id), Options: options}); err == nil {
			b.Errorf("the Create of %s returned before its hook", id)
		}
		cancel()
		_ = short.connection.Close()
	}
	wantNothingNew(b, "a connection that goes", before, "")
}

// shimClient is a connection to a shim, as containerd has one.
type shimClient struct {
	taskapi.TTRPCTaskService
	connection *ttrpc.Client
}

func dialShim(b *bed.Bench, address string) shimClient {
	b.Helper()
	conn, err := net.Dial("unix", address)
	if err != nil {
		b.Fatal(err)
	}
	connection := ttrpc.NewClient(conn)
	b.Cleanup(func() { _ = connection.Close() })
	return shimClient{TTRPCTaskService: taskapi.NewTTRPCTaskClient(connection), connection: connection}
}

// copyBundle returns a bundle of a container that is like c, in its own cgroup. Its creation takes 300 ms at least.
func copyBundle(b *bed.Bench, c *bed.Container, cgroup string) string {
	b.Helper()
	state, err := taskState(b, c)
	if err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(state, "config.json"))
	if err != nil {
		b.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		b.Fatal(err)
	}
	spec.Linux.CgroupsPath = filepath.Join(b.Target.CgroupParent(), cgroup)
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "0.3"}}}}
	if text, err = json.Marshal(spec); err != nil {
		b.Fatal(err)
	}
	bundle := b.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		b.Fatal(err)
	}
	return bundle
}

// taskState is the bundle of a container that containerd has made.
func taskState(b *bed.Bench, c *bed.Container) (string, error) {
	for _, path := range b.Daemon.Leftovers() {
		if strings.HasSuffix(path, filepath.Join("io.containerd.runtime.v2.task", b.Client.Namespace, c.ID)) {
			if _, err := os.Stat(filepath.Join(path, "config.json")); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("container %s has no bundle", c.ID)
}

// A Create that is under way when containerd is killed leaves nothing either, when the next containerd has come.
func TestCreateDuringWhichContainerdDies(t *testing.T) {
	bed.OnOwn(t, []bed.Target{bed.Pinned, bed.Oldest}, func(b *bed.Bench) {
		// The runtime takes 3 s, and a shim looks each 10 s whether containerd has removed its bundle.
		b.Watch.Settle = harness.Patience(40 * time.Second)
		before := snapshot(b)
		for _, annotations := range []bed.Annotations{{}, {bed.KeyPreStart: bed.Shell("true")}} {
			c := b.NewContainer(annotations, bed.Forever, fakeRuntime(b, scriptOf(b, slowly)))
			failed := bed.Later(func() (time.Duration, error) { _, err := c.Create(b.Context()); return 0, err })
			b.Poll("the shim", func() bool {
				shims, err := b.Daemon.Shims()
				return err == nil && len(shims) > 0
			})
			if err := b.Daemon.Kill(); err != nil {
				b.Fatal(err)
			}
			if r := b.Await(failed); r.Err == nil {
				b.Error("it has been created")
			}
			ctx, cancel := context.WithTimeout(b.Context(), bed.Limit)
			defer cancel()
			if err := b.Daemon.Start(ctx); err != nil {
				b.Fatal(err)
			}
			wantNothingNew(b, "a Create during which containerd dies", before, c.ID)
		}
	})
}
