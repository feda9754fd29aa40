package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// onExitCgroupName is the last element of an onExit's cgroup path.
const onExitCgroupName = "onExit"

// StartOnExit starts an onExit, and returns the pid of its process. The container's own
// OCI runtime creates a second container for it, from the first one's spec: so the same
// program enforces the same confinement. Before the process runs, its pidfd is sent over
// pidfds, and its pid is passed to announce.
//
// Its root filesystem is a copy of the container's mounts in the kept mount namespace:
// volumes, the runtime's mounts, and those that the container made. The copy is mounted
// over the bundle's rootfs in a new mount namespace of this process. No other process
// sees it, and it disappears with the processes.
func StartOnExit(request wire.StartRequest, pidfds *os.File, announce func(pid int) error) (pid int, err error) {
	defer recovered(&err)
	onExit := request.OnExit
	lock, err := lockOnExit(onExit)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if os.Getppid() != request.OnExit.Shim {
		return 0, errors.New("the shim is gone")
	}
	spec, err := readSpec(onExit.Bundle)
	if err != nil {
		return 0, err
	}
	derived := onExitSpec(spec, request)
	if err := os.MkdirAll(onExit.Dir, 0o700); err != nil {
		return 0, err
	}
	runtime.LockOSThread() // this thread moves to a new namespace and never leaves it
	if err := copyMounts(onExit.Namespaces[string(specs.MountNamespace)], derived.Root.Path); err != nil {
		return 0, fmt.Errorf("the container's mounts: %w", err)
	}
	if err := keepDev(derived); err != nil {
		return 0, fmt.Errorf("the container's /dev: %w", err)
	}
	if err := writeJSON(filepath.Join(onExit.Dir, "config.json"), derived); err != nil {
		return 0, err
	}
	pidFile := filepath.Join(onExit.Dir, "pid")
	if err := runRuntime(onExit, true, createArgs(onExit, pidFile)...); err != nil {
		return 0, err
	}
	if pid, err = readPid(pidFile); err != nil {
		return 0, err
	}
	if err := sendPidfd(pid, pidfds); err != nil {
		return 0, err
	}
	if err := announce(pid); err != nil {
		return 0, fmt.Errorf("announce onExit's process: %w", err)
	}
	return pid, runRuntime(onExit, false, "start", onExit.ID)
}

// createArgs returns the arguments that containerd's runc shim uses for the container
// itself.
func createArgs(onExit *wire.OnExit, pidFile string) []string {
	args := []string{"create", "--bundle", onExit.Dir, "--pid-file", pidFile}
	if onExit.NoPivotRoot {
		args = append(args, "--no-pivot")
	}
	if onExit.NoNewKeyring {
		args = append(args, "--no-new-keyring")
	}
	return append(args, onExit.ID)
}

// Clean removes the container of an onExit, with all its processes.
func Clean(onExit wire.OnExit) error {
	if _, err := os.Stat(onExit.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil // no onExit was started
	}
	lock, err := lockOnExit(&onExit)
	if err != nil {
		return err
	}
	defer lock.Close()
	runtime.LockOSThread()
	var errs []error
	for _, id := range known(onExit) {
		errs = append(errs, runRuntime(&onExit, false, "delete", "--force", id))
	}
	return errors.Join(append(errs, os.RemoveAll(onExit.Dir))...)
}

// known returns the containers that the runtime has a state of: at most one.
func known(onExit wire.OnExit) []string {
	entries, _ := os.ReadDir(runtimeRoot(&onExit)) // it does not exist if the runtime was never called
	var ids []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") { // crun keeps its cache there
			ids = append(ids, entry.Name())
		}
	}
	return ids
}

func runtimeRoot(onExit *wire.OnExit) string { return filepath.Join(onExit.Dir, "runtime") }

// lockOnExit orders the start and the removal of an onExit. If the shim dies during the
// start, containerd runs the delete action while the shim's host is still at work. If the
// host has the lock first, the delete action finds all that it made; if the delete action
// does, the host finds that the shim is gone. The delete action, which sets no Shim, has
// little time, and the host's runtime may hang; so it kills a host that holds the lock for
// too long.
func lockOnExit(onExit *wire.OnExit) (*os.File, error) {
	lock, err := os.OpenFile(onExit.Dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if onExit.Shim == 0 {
		err = killHolder(lock)
	}
	if err == nil {
		err = unix.FcntlFlock(lock.Fd(), unix.F_SETLKW, wholeFile())
	}
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return lock, nil
}

// wholeFile is a lock of fcntl(2). Unlike with flock(2), the kernel can report its holder.
func wholeFile() *unix.Flock_t { return &unix.Flock_t{Type: unix.F_WRLCK} }

// holderWait is how long the delete action waits for a host whose shim has died. Creating
// an onExit usually takes 0.1 s, and containerd gives its delete action 5 s in total.
const holderWait = time.Second

// killHolder kills the process that holds the lock if it still does after holderWait. The
// runtime that this process called is killed with it (Pdeathsig).
func killHolder(lock *os.File) error {
	ticker := time.NewTicker(holderWait / 100)
	defer ticker.Stop()
	for end := time.Now().Add(holderWait); time.Now().Before(end); <-ticker.C {
		if pid, err := holder(lock); err != nil || pid == 0 {
			return err
		}
	}
	pid, err := holder(lock)
	if err != nil || pid == 0 {
		return err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil //nolint:nilerr // it has exited
	}
	defer unix.Close(pidfd)
	if again, err := holder(lock); err != nil || again != pid { // the pid may have been reused before PidfdOpen
		return err
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the holder %d: %w", pid, err)
	}
	return nil
}

// holder returns the pid of the process that holds the lock, or 0 if no other process does.
func holder(lock *os.File) (pid int, err error) {
	held := wholeFile()
	err = unix.FcntlFlock(lock.Fd(), unix.F_GETLK, held)
	return int(held.Pid), err // for a free lock the kernel sets only the type, fcntl(2)
}

// copyMounts mounts a copy of all mounts of a mount namespace over target, in a new mount
// namespace of this thread. Its mounts do not propagate to other namespaces.
func copyMounts(namespace, target string) error {
	kept, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer kept.Close()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the mounts slaves: %w", err)
	}
	own, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return err
	}
	defer own.Close()
	tree, err := openMounts(kept, own)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	if err := unix.Mount("", target, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the copied mounts slaves: %w", err)
	}
	return nil
}

// openMounts returns a detached copy of the mounts in kept. The thread returns to the
// namespace own.
func openMounts(kept, own *os.File) (tree int, err error) {
	if err := unix.Setns(int(kept.Fd()), unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("setns: %w", err)
	}
	tree, err = unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		err = fmt.Errorf("open_tree: %w", err)
	}
	return tree, errors.Join(err, unix.Setns(int(own.Fd()), unix.CLONE_NEWNS))
}

// runRuntime calls the OCI runtime. With output, the process that the runtime creates gets this process's stdio; the runtime
// itself writes to its log. The caller has locked its thread: Pdeathsig is sent when the forking thread ends.
func runRuntime(onExit *wire.OnExit, output bool, args ...string) error {
	log := filepath.Join(onExit.Dir, "log.json")
	all := []string{"--root", runtimeRoot(onExit), "--log", log, "--log-format", "json"}
	if onExit.SystemdCgroup {
		all = append(all, "--systemd-cgroup")
	}
	cmd := exec.Command(onExit.Runtime, append(all, args...)...)
	cmd.Dir, cmd.Env = onExit.Dir, []string{"PATH=" + defaultPath, "LC_ALL=C"}
	// If the host is killed, the runtime is killed too, and with it the container that it was creating.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if output {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // no pipe: the handler's process keeps them
	}
	if err := cmd.Run(); err != nil {
		if text := lastError(log); text != "" {
			err = errors.New(text)
		}
		return fmt.Errorf("%s %s: %w", filepath.Base(onExit.Runtime), args[0], err)
	}
	return nil
}

// defaultPath is where runtimes look for their helpers, such as newuidmap.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lastError returns the last error in a runtime's JSON log. runc's and crun's have the same
// format.
func lastError(path string) string {
	data, _ := os.ReadFile(path) // a runtime that fails early writes no log
	last := ""
	for line := range strings.Lines(string(data)) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "error" {
			last = entry.Msg
		}
	}
	return last
}

func readPid(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// sendPidfd sends a pidfd of a process that was created and not started yet.
func sendPidfd(pid int, pidfds *os.File) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open a pidfd of onExit's process: %w", err)
	}
	defer unix.Close(pidfd)
	if err := unix.Sendmsg(int(pidfds.Fd()), []byte{0}, unix.UnixRights(pidfd), nil, 0); err != nil {
		return fmt.Errorf("send the pidfd of onExit's process: %w", err)
	}
	return nil
}
