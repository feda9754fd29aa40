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

// onExitCgroupName is the last part of the cgroup of an onExit.
const onExitCgroupName = "onExit"

// StartOnExit starts an onExit, and returns the pid of its process. The container's
// own OCI runtime makes it, as a container of its own, from the container's spec:
// so what it may do is made by what made the container, and by nothing else. A
// pidfd of its process is sent over pidfds, and its pid is passed to announce, before it
// runs.
//
// Its root filesystem is a copy of the container's mounts, as they are in the
// mount namespace that was kept: volumes, what the runtime mounted, and what the
// container mounted itself. It is put over the bundle's rootfs, in a mount
// namespace of this process, so that nobody else sees it and nothing stays.
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
	runtime.LockOSThread() // the process ends with this thread in a namespace of its own
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

// createArgs are those that containerd's runc shim gives for the container itself.
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
		return nil // none was begun
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

// known are the containers that the runtime has a state of: one at the most.
func known(onExit wire.OnExit) []string {
	entries, _ := os.ReadDir(runtimeRoot(&onExit)) // none, where it has made none
	var ids []string
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") { // crun keeps its cache there
			ids = append(ids, entry.Name())
		}
	}
	return ids
}

func runtimeRoot(onExit *wire.OnExit) string { return filepath.Join(onExit.Dir, "runtime") }

// lockOnExit makes sure that an onExit is not removed while it is being made: where
// the shim dies meanwhile, its host and containerd's delete action meet. Whoever
// comes second finds all of it, or no shim. The delete action, which names no shim,
// has little time, and ends a host that keeps it waiting: its runtime may hang.
func lockOnExit(onExit *wire.OnExit) (*os.File, error) {
	lock, err := os.OpenFile(onExit.Dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if onExit.Shim == 0 {
		err = endHolder(lock)
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

// wholeFile is a lock whose holder the kernel tells, which flock(2)'s is not.
func wholeFile() *unix.Flock_t { return &unix.Flock_t{Type: unix.F_WRLCK} }

// holderWait is what a host has to come to its end after its shim. Making an onExit
// takes 0.1 s as a rule, and containerd gives its delete action 5 s for everything.
const holderWait = time.Second

// endHolder kills the process that holds the lock for longer than holderWait. The
// runtime that it has called ends with it.
func endHolder(lock *os.File) error {
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
		return nil //nolint:nilerr // it has ended
	}
	defer unix.Close(pidfd)
	if again, err := holder(lock); err != nil || again != pid { // else the number may be another process's by now
		return err
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the holder %d: %w", pid, err)
	}
	return nil
}

// holder of the lock, 0 where nobody but this process holds it.
func holder(lock *os.File) (pid int, err error) {
	held := wholeFile()
	if err := unix.FcntlFlock(lock.Fd(), unix.F_GETLK, held); err != nil || held.Type == unix.F_UNLCK {
		return 0, err
	}
	return int(held.Pid), nil
}

// copyMounts puts a copy of all mounts of a mount namespace over target, in a new
// mount namespace of this thread. Nothing goes from there to any other.
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

// openMounts returns a detached copy of the mounts in kept, and comes back to own.
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

// runRuntime, on a thread that is not going to end, calls the OCI runtime. What it makes has this process's stdio, where
// output says so; its own words are in its log.
func runRuntime(onExit *wire.OnExit, output bool, args ...string) error {
	log := filepath.Join(onExit.Dir, "log.json")
	all := []string{"--root", runtimeRoot(onExit), "--log", log, "--log-format", "json"}
	if onExit.SystemdCgroup {
		all = append(all, "--systemd-cgroup")
	}
	cmd := exec.Command(onExit.Runtime, append(all, args...)...)
	cmd.Dir, cmd.Env = onExit.Dir, []string{"PATH=" + defaultPath, "LC_ALL=C"}
	// A host that is killed takes it along; what it was making ends with it.
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

// defaultPath is where runtimes look for what they call, such as newuidmap.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lastError of a runtime's log in JSON, runc's and crun's alike.
func lastError(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
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

// sendPidfd of a process that waits for its start.
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
