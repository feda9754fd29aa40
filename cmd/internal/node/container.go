package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
)

// selfTest is one container, in a containerd namespace of the same name.
type selfTest struct {
	conn    *grpc.ClientConn
	name    string
	dir     string // its files on the node
	runtime testRuntime
	program string // lifecyclectl on the node
	action  string // the type of its handlers
}

// testRuntime is a runtime as containerd's API names it.
type testRuntime struct{ name, path string }

// namespaceHeader carries the containerd namespace of a call (containerd, pkg/namespaces).
const namespaceHeader = "containerd-namespace"

func (t *selfTest) in(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, namespaceHeader, t.name)
}

// run starts the container, stops it and deletes its task.
func (t *selfTest) run(ctx context.Context) error {
	spec, err := t.spec()
	if err != nil {
		return err
	}
	ctx = t.in(ctx)
	namespace := &namespacesapi.Namespace{Name: t.name}
	if _, err := namespacesapi.NewNamespacesClient(t.conn).Create(ctx, &namespacesapi.CreateNamespaceRequest{Namespace: namespace}); err != nil {
		return plain("make a namespace", err)
	}
	container := &containersapi.Container{ID: t.name, Spec: spec, Runtime: &containersapi.Container_Runtime{Name: t.runtime.name}}
	if _, err := containersapi.NewContainersClient(t.conn).Create(ctx, &containersapi.CreateContainerRequest{Container: container}); err != nil {
		return plain("make a container", err)
	}
	tasks := tasksapi.NewTasksClient(t.conn)
	rootfs := []*types.Mount{{Type: "bind", Source: filepath.Join(t.dir, "rootfs"), Options: []string{"rbind", "rw"}}}
	if _, err := tasks.Create(ctx, &tasksapi.CreateTaskRequest{ContainerID: t.name, Rootfs: rootfs, RuntimePath: t.runtime.path}); err != nil {
		return plain("create a task", err)
	}
	if _, err := tasks.Start(ctx, &tasksapi.StartRequest{ContainerID: t.name}); err != nil {
		return plain("start the task", err)
	}
	if err := t.awaitStarted(ctx); err != nil {
		return err
	}
	if _, err := tasks.Kill(ctx, &tasksapi.KillRequest{ContainerID: t.name, Signal: uint32(unix.SIGTERM)}); err != nil {
		return plain("stop the task", err)
	}
	exit, err := tasks.Wait(ctx, &tasksapi.WaitRequest{ContainerID: t.name})
	if err != nil {
		return plain("wait for the task", err)
	}
	if exit.ExitStatus != 0 {
		return fmt.Errorf("the container's process exited with status %d", exit.ExitStatus)
	}
	if _, err := tasks.Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: t.name}); err != nil {
		return plain("delete the task", err)
	}
	return nil
}

// awaitStarted waits until the process has written that it runs: a signal that comes earlier would kill it, because it handles
// signals only from then on. With a postStart the start was held until postStart's end, but not until the process's first words.
func (t *selfTest) awaitStarted(ctx context.Context) error {
	for {
		text, err := trust.ReadFile(filepath.Join(t.dir, "results", testLog), maxFile)
		if err == nil && slices.Contains(strings.Fields(string(text)), stageStarted) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the container's process did not start in time")
		case <-time.After(pollStarted):
		}
	}
}

// pollStarted is how often the results are looked at.
const pollStarted = 20 * time.Millisecond

func plain(what string, err error) error {
	return fmt.Errorf("%s: %s", what, status.Convert(err).Message())
}

// annotations returns the container's handlers. They have no time limits, because an operator's may be shorter; the whole test has one.
func (t *selfTest) annotations() (map[string]string, error) {
	annotations := map[string]string{}
	for _, name := range testHandlers {
		var action any
		switch t.action {
		case actionExec:
			action = map[string]any{"command": []string{testProgram, "node", "self-test", name}}
		case actionSleep:
			action = map[string]any{"seconds": 1}
		default:
			return nil, nil
		}
		text, err := json.Marshal(map[string]any{t.action: action})
		if err != nil {
			return nil, err
		}
		annotations["lifecycle-shim.io/"+name] = string(text)
	}
	return annotations, nil
}

// spec returns the container's OCI specification: an empty root with this program and a directory for the results in it.
func (t *selfTest) spec() (*anypb.Any, error) {
	annotations, err := t.annotations()
	if err != nil {
		return nil, err
	}
	spec := specs.Spec{
		Version: "1.0.2", Annotations: annotations, Hostname: "self-test",
		Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{testProgram, "node", "self-test", stageProcess}, Env: []string{"PATH=/"}, Cwd: "/", NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: testProgram, Type: "bind", Source: t.program, Options: []string{"bind", "ro"}},
			{Destination: testResults, Type: "bind", Source: filepath.Join(t.dir, "results"), Options: []string{"bind", "rw"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + t.name,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
			},
		},
	}
	encoded, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: encoded}, nil
}

// cleanUp removes everything, also after ctx has ended.
func (t *selfTest) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpWithin)
	defer cancel()
	err := removeNamespace(ctx, t.conn, t.name)
	if err == nil { // else the container may still have mounts there
		err = os.RemoveAll(t.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot clean up, the next check does: %w", err)
	}
	return nil
}

// removeNamespace removes a container, its task and its namespace, all of that name.
func removeNamespace(ctx context.Context, conn *grpc.ClientConn, name string) error {
	within := metadata.AppendToOutgoingContext(ctx, namespaceHeader, name)
	tasks := tasksapi.NewTasksClient(conn)
	if _, err := tasks.Get(within, &tasksapi.GetRequest{ContainerID: name}); status.Code(err) != codes.NotFound {
		_, killErr := tasks.Kill(within, &tasksapi.KillRequest{ContainerID: name, Signal: uint32(unix.SIGKILL), All: true})
		_, waitErr := tasks.Wait(within, &tasksapi.WaitRequest{ContainerID: name})
		if _, err := tasks.Delete(within, &tasksapi.DeleteTaskRequest{ContainerID: name}); failed(err) {
			return errors.Join(err, ignoreNotFound(killErr), ignoreNotFound(waitErr))
		}
	}
	if _, err := containersapi.NewContainersClient(conn).Delete(within, &containersapi.DeleteContainerRequest{ID: name}); failed(err) {
		return err
	}
	if _, err := namespacesapi.NewNamespacesClient(conn).Delete(within, &namespacesapi.DeleteNamespaceRequest{Name: name}); failed(err) {
		return err
	}
	return nil
}

func failed(err error) bool { return err != nil && status.Code(err) != codes.NotFound }

func ignoreNotFound(err error) error {
	if failed(err) {
		return err
	}
	return nil
}

// removeLeftovers removes what checks have left that were killed. It is best effort: the check itself does not need it.
func removeLeftovers(ctx context.Context, conn *grpc.ClientConn) {
	list, err := namespacesapi.NewNamespacesClient(conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return
	}
	for _, namespace := range list.Namespaces {
		rest, ours := strings.CutPrefix(namespace.Name, testPrefix)
		pid, _, _ := strings.Cut(rest, "-")
		if number, err := strconv.Atoi(pid); !ours || err != nil || unix.Kill(number, 0) == nil && isCtl(number) {
			continue
		}
		if removeNamespace(ctx, conn, namespace.Name) == nil {
			_ = os.RemoveAll(filepath.Join(testDir, filepath.Base(namespace.Name)))
		}
	}
}

// isCtl reports whether a process runs this program: a check may be running now.
func isCtl(pid int) bool {
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasPrefix(filepath.Base(program), ctlName)
}
