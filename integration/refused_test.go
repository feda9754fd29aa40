package integration

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

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// A Create that is refused or fails leaves no shim, cgroup, mount, socket or file, whatever its error is, alone and in a
// pod's shared shim (docs/spec.md#failed-create, FAULTS A1).

// refusal is a Create that cannot succeed.
type refusal struct {
	annotations with
	edit        func(*harness.ContainerConfig)
	// patience of the client, 0: it has time. The runtime is slower then.
	patience time.Duration
	runtime  string
	says     string
}

// refusals need the bench's directories.
func (b *bench) refusals() map[string]refusal {
	b.Helper()
	return map[string]refusal{
		"an invalid annotation":       {annotations: with{keyPostStart: "exec: {}"}, says: keyPostStart},
		"A1: a key 500 times":         {annotations: with{keyLifecycle: strings.Repeat("a:\n", 500)}, says: keyLifecycle},
		"a value of 200 KB":           {annotations: with{keyLifecycle: strings.Repeat("<", 200_000)}, says: keyLifecycle},
		"invalid options":             {annotations: with{}, edit: withOptions(b, "Nonsense = 1"), says: "Nonsense"},
		"invalid options, 1 MB":       {annotations: with{keyPreStop: shell("true")}, edit: withOptions(b, strings.Repeat("Nonsense_", 100_000)+" = 1"), says: "Nonsense"},
		"a runtime that is not there": {annotations: with{keyPreStop: shell("true")}, edit: b.runtime("/does/not/exist"), says: "/does/not/exist"},
		"an error of 5 MB":            {annotations: with{}, edit: b.runtime(b.script(wordy)), says: "runtime"},
		"that error, with handlers":   {annotations: with{keyPreStop: shell("true")}, edit: b.runtime(b.script(wordy)), says: "runtime"},
		"a program that is not there": {annotations: with{keyPreStop: shell("true")}, edit: command("/does/not/exist"), says: "/does/not/exist"},
		"a program with a long name":  {annotations: with{}, edit: command("/" + strings.Repeat("<", 5_000)), says: "<<<"},
		"a preparation that fails":    {annotations: with{keyPreStart: shell("true")}, edit: b.runtime(b.script(spoils)), says: "lifecycle handlers: "},
		"a client that gives up":      b.slow(with{}),
		"that client, with handlers":  b.slow(with{keyPreStart: shell("true")}),
		"that client, with postStart": b.slow(with{keyPostStart: shell("true")}),
	}
}

func (b *bench) slow(annotations with) refusal {
	b.Helper()
	path := b.script(slowly)
	return refusal{annotations: annotations, edit: b.runtime(path), patience: time.Second, runtime: path, says: "deadline"}
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

func (b *bench) script(text string) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		b.Fatal(err)
	}
	return path
}

// runtime is another OCI runtime.
func (b *bench) runtime(path string) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) {
		config.Options = &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "Root = %q\nBinaryName = %q\n", b.daemon.RuncRoot, path)}
	}
}

func command(path string) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) { config.Args = []string{path} }
}

// refuse makes the Create, and wants it to fail and to leave nothing.
func (b *bench) refuse(name string, r refusal, member func(*harness.ContainerConfig)) {
	b.Helper()
	before := b.snapshot()
	c := b.newContainer(r.annotations, forever, func(config *harness.ContainerConfig) {
		if r.edit != nil {
			r.edit(config)
		}
		if member != nil {
			member(config)
		}
	})
	ctx, cancel := context.WithTimeout(b.Context(), cmp.Or(r.patience, limit))
	defer cancel()
	_, err := c.Create(ctx)
	if err == nil {
		b.Fatalf("%s: the container is created", name)
	}
	if b.wantBounded(err); !strings.Contains(err.Error(), r.says) || strings.Contains(err.Error(), "ttrpc: closed") {
		b.Errorf("%s: the error does not say %q: %.300q", name, r.says, err)
	}
	if r.patience > 0 {
		b.poll("the runtime to have created the container", func() bool {
			_, err := os.Stat(r.runtime + ".done")
			return err == nil
		})
	}
	b.wantNothingNew(name, before, c.ID)
}

func (b *bench) snapshot() harness.Snapshot {
	b.Helper()
	before, err := b.watch.TakeSnapshot()
	if err != nil {
		b.Fatal(err)
	}
	return before
}

func (b *bench) wantNothingNew(name string, before harness.Snapshot, id string) {
	b.Helper()
	leaks, err := b.watch.Leaks(b.Context(), before)
	if err != nil {
		b.Fatal(err)
	}
	b.poll("the directories of "+name+" to go", func() bool {
		return !slices.ContainsFunc(b.daemon.Leftovers(), func(path string) bool {
			return filepath.Base(path) == id && filepath.Base(filepath.Dir(filepath.Dir(path))) != "c" // the harness's own
		})
	})
	for _, leak := range leaks {
		b.Errorf("%s leaves %s", name, leak)
	}
}

// oldest is Debian's containerd.
var oldest = target{name: "1.6-runc", server: "1.6", binary: "runc"}

func TestRefusedCreateLeavesNothing(t *testing.T) {
	onOwn(t, []target{pinned, oldest}, func(b *bench) {
		for name, r := range b.refusals() {
			if b.refuse(name+", alone", r, nil); b.Failed() {
				return
			}
		}
		p := b.newPod()
		for name, r := range b.refusals() {
			b.refuse(name+", in a pod", r, p.member)
		}
		b.refuseRaw(p)
		p.wantUnharmed()
	})
}

// refuseRaw makes Creates that containerd does not make: of an id that there is, and over a connection that goes.
func (b *bench) refuseRaw(p *pod) {
	b.Helper()
	address, err := b.daemon.ShimAddress(b.client.Namespace, p.bystander.ID)
	if err != nil {
		b.Fatal(err)
	}
	bundle := b.copyBundle(p.bystander)
	before := b.snapshot()
	options, err := typeurl.MarshalAnyToProto(b.options(""))
	if err != nil {
		b.Fatal(err)
	}
	client := b.dialShim(address)
	_, err = client.Create(b.Context(), &taskapi.CreateTaskRequest{ID: p.bystander.ID, Bundle: bundle, Options: options})
	if status.Code(err) != codes.AlreadyExists {
		b.Errorf("a Create of an id that exists: %v", err)
	}
	_ = client.connection.Close()
	b.wantNothingNew("an id that exists", before, "")
	// The connection goes after 50 ms at most, whatever the runtime is doing then.
	for i := range 10 {
		ctx, cancel := context.WithTimeout(b.Context(), time.Duration(i)*5*time.Millisecond)
		short := b.dialShim(address)
		_, _ = short.Create(ctx, &taskapi.CreateTaskRequest{ID: fmt.Sprintf("raw%d", i), Bundle: bundle, Options: options})
		cancel()
		_ = short.connection.Close()
	}
	b.wantNothingNew("a connection that goes", before, "")
}

// shimClient is a connection to a shim, as containerd has one.
type shimClient struct {
	taskapi.TTRPCTaskService
	connection *ttrpc.Client
}

func (b *bench) dialShim(address string) shimClient {
	b.Helper()
	conn, err := net.Dial("unix", address)
	if err != nil {
		b.Fatal(err)
	}
	connection := ttrpc.NewClient(conn)
	b.Cleanup(func() { _ = connection.Close() })
	return shimClient{TTRPCTaskService: taskapi.NewTTRPCTaskClient(connection), connection: connection}
}

// copyBundle returns a bundle of a container that is like c, in a cgroup of its own.
func (b *bench) copyBundle(c *container) string {
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
	spec.Linux.CgroupsPath = filepath.Join(b.target.cgroupParent(), "raw")
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
func taskState(b *bench, c *container) (string, error) {
	for _, path := range b.daemon.Leftovers() {
		if strings.HasSuffix(path, filepath.Join("io.containerd.runtime.v2.task", b.client.Namespace, c.ID)) {
			if _, err := os.Stat(filepath.Join(path, "config.json")); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("container %s has no bundle", c.ID)
}

// A Create that is under way when containerd is killed leaves nothing either, when the next containerd has come.
func TestCreateDuringWhichContainerdDies(t *testing.T) {
	onOwn(t, []target{pinned, oldest}, func(b *bench) {
		// The runtime takes 3 s, and a shim looks each 10 s whether containerd has removed its bundle.
		b.watch.Settle = harness.Patience(40 * time.Second)
		before := b.snapshot()
		for _, annotations := range []with{{}, {keyPreStart: shell("true")}} {
			c := b.newContainer(annotations, forever, b.runtime(b.script(slowly)))
			failed := later(func() (time.Duration, error) { _, err := c.Create(b.Context()); return 0, err })
			b.poll("the shim", func() bool {
				shims, err := b.daemon.Shims()
				return err == nil && len(shims) > 0
			})
			if err := b.daemon.Kill(); err != nil {
				b.Fatal(err)
			}
			if r := b.result(failed); r.err == nil {
				b.Error("it has been created")
			}
			ctx, cancel := context.WithTimeout(b.Context(), limit)
			defer cancel()
			if err := b.daemon.Start(ctx); err != nil {
				b.Fatal(err)
			}
			b.wantNothingNew("a Create during which containerd dies", before, c.ID)
		}
	})
}
