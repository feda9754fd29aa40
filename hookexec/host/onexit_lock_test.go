package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// lockEnv, in the environment, makes this test's binary a process that holds the lock of that directory.
const lockEnv = "HOST_TEST_HOLDS"

// TestLockOfADeadShim: the removal of a dead shim's onExit kills a host that hangs. A host with a shim waits for the lock.
func TestLockOfADeadShim(t *testing.T) {
	if dir := os.Getenv(lockEnv); dir != "" {
		lock, err := lockOnExit(&wire.OnExit{Dir: dir, Shim: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("locked\n")
		_ = unix.Pause() // until it is killed
		_ = lock.Close()
	}
	dir, before := filepath.Join(t.TempDir(), "onExit"), pidfds(t)
	hung := exec.Command(os.Args[0], "-test.run=^TestLockOfADeadShim$")
	hung.Env = append(os.Environ(), lockEnv+"="+dir)
	output, err := hung.StdoutPipe()
	if err == nil {
		err = hung.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	if _, err := output.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(ended)
		_ = hung.Wait() // checked by its ProcessState
	}()
	waits := make(chan *os.File, 1)
	go func() {
		lock, err := lockOnExit(&wire.OnExit{Dir: dir, Shim: os.Getpid()})
		if err != nil {
			t.Error(err)
		}
		waits <- lock
	}()
	select {
	case <-waits:
		t.Error("a host with a shim did not wait for the lock")
	case <-ended:
		t.Error("a host with a shim killed the holder of the lock")
	case <-time.After(2 * holderWait):
	}
	lock, err := lockOnExit(&wire.OnExit{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	<-ended
	if status, ok := hung.ProcessState.Sys().(interface{ Signal() unix.Signal }); !ok || status.Signal() != unix.SIGKILL {
		t.Errorf("the host that hung: %v", hung.ProcessState)
	}
	_ = lock.Close()
	_ = (<-waits).Close()
	if after := pidfds(t); after != before {
		t.Errorf("%d pidfds, %d before", after, before)
	}
}

// pidfds returns the number of this process's pidfds.
func pidfds(t *testing.T) (count int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range links {
		if link, err := os.Readlink(path); err == nil && strings.Contains(link, "pidfd") {
			count++
		}
	}
	return count
}

// TestHolderThatEndsInTime: killHolder does not kill a process that releases the lock in time, and does not wait for a lock
// without a holder.
func TestHolderThatEndsInTime(t *testing.T) {
	if dir := os.Getenv(briefEnv); dir != "" {
		lock, err := lockOnExit(&wire.OnExit{Dir: dir, Shim: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("locked\n")
		<-time.After(holderWait / 3) // the duration of its work
		_ = lock.Close()
		os.Exit(7)
	}
	dir := filepath.Join(t.TempDir(), "onExit")
	brief := exec.Command(os.Args[0], "-test.run=^TestHolderThatEndsInTime$")
	brief.Env = append(os.Environ(), briefEnv+"="+dir)
	output, err := brief.StdoutPipe()
	if err == nil {
		err = brief.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := output.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	lock, err := lockOnExit(&wire.OnExit{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_ = brief.Wait()
	if got := brief.ProcessState.ExitCode(); got != 7 {
		t.Errorf("it exited with %v", brief.ProcessState)
	}
	began := time.Now()
	if err := killHolder(lock); err != nil || time.Since(began) > holderWait/2 {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	if pid, err := holder(lock); pid != 0 || err != nil {
		t.Errorf("the holder is %d, %v", pid, err)
	}
	_ = lock.Close()
	if pid, err := holder(lock); pid != 0 || err == nil {
		t.Errorf("holder of a closed lock: %d, %v", pid, err)
	}
	if err := killHolder(lock); err == nil {
		t.Error("killHolder succeeded with a closed lock")
	}
}

// briefEnv is like lockEnv, for a process that releases the lock.
const briefEnv = "HOST_TEST_HOLDS_BRIEFLY"

// TestLockThatIsNotGiven: a deadlock of two processes is the only error of a lock. No descriptor is left open.
func TestLockThatIsNotGiven(t *testing.T) {
	if dirs, ok := strings.CutPrefix(os.Getenv(lockEnv), "both:"); ok {
		first, second, _ := strings.Cut(dirs, ":")
		if _, err := lockOnExit(&wire.OnExit{Dir: first, Shim: 1}); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("locked\n")
		_, err := lockOnExit(&wire.OnExit{Dir: second, Shim: 1})
		t.Fatalf("it got both locks: %v", err)
	}
	ours, its := filepath.Join(t.TempDir(), "ours"), filepath.Join(t.TempDir(), "its")
	lock, err := lockOnExit(&wire.OnExit{Dir: ours, Shim: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	other := exec.Command(os.Args[0], "-test.run=^TestLockThatIsNotGiven$")
	other.Env = append(os.Environ(), lockEnv+"=both:"+its+":"+ours)
	output, err := other.StdoutPipe()
	if err == nil {
		err = other.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	if _, err := output.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	poll(t, func() bool { // until it waits for the lock, proc_locks(5)
		data, err := os.ReadFile("/proc/locks")
		waits := regexp.MustCompile(fmt.Sprintf(`(?m)^\d+: -> POSIX +ADVISORY +WRITE %d `, other.Process.Pid))
		return err == nil && waits.Match(data)
	})
	before := descriptors(t)
	refused, err := lockOnExit(&wire.OnExit{Dir: its, Shim: 1})
	if !errors.Is(err, unix.EDEADLK) || refused != nil || !strings.Contains(err.Error(), "lock "+its+".lock: ") {
		t.Errorf("got %v, %v", refused, err)
	}
	if after := descriptors(t); !slices.Equal(after, before) {
		t.Errorf("descriptors are %q, before %q", after, before)
	}
}
