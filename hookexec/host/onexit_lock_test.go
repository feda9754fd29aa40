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

// lockEnv makes this test's binary a process that holds the lock of that directory.
const lockEnv = "HOST_TEST_HOLDS"

// TestLockOfADeadShim: whoever removes a dead shim's onExit does not wait for a host that hangs; who has a shim waits.
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
		_ = hung.Wait() // its state says how
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
		t.Error("a host with a shim does not wait for the lock")
	case <-ended:
		t.Error("a host with a shim kills who holds the lock")
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

// pidfds counts those of this process.
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

// TestHolderThatEndsInTime is not ended, and a lock that nobody holds is not waited for.
func TestHolderThatEndsInTime(t *testing.T) {
	if dir := os.Getenv(briefEnv); dir != "" {
		lock, err := lockOnExit(&wire.OnExit{Dir: dir, Shim: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("locked\n")
		<-time.After(holderWait / 3) // what it does takes so long
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
		t.Errorf("it has ended with %v", brief.ProcessState)
	}
	began := time.Now()
	if err := endHolder(lock); err != nil || time.Since(began) > holderWait/2 {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	if pid, err := holder(lock); pid != 0 || err != nil {
		t.Errorf("it is held by %d, %v", pid, err)
	}
	_ = lock.Close()
	if pid, err := holder(lock); pid != 0 || err == nil {
		t.Errorf("a closed lock is held by %d, %v", pid, err)
	}
	if err := endHolder(lock); err == nil {
		t.Error("the holder of a closed lock can be ended")
	}
}

// briefEnv is as lockEnv, for a process that lets the lock go.
const briefEnv = "HOST_TEST_HOLDS_BRIEFLY"

// TestLockThatIsNotGiven: two processes that wait for each other are refused the lock, which is all that can fail. Nothing
// is left open.
func TestLockThatIsNotGiven(t *testing.T) {
	if dirs, ok := strings.CutPrefix(os.Getenv(lockEnv), "both:"); ok {
		first, second, _ := strings.Cut(dirs, ":")
		if _, err := lockOnExit(&wire.OnExit{Dir: first, Shim: 1}); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("locked\n")
		_, err := lockOnExit(&wire.OnExit{Dir: second, Shim: 1})
		t.Fatalf("it has got both: %v", err)
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
		t.Errorf("the descriptors are %q, and were %q", after, before)
	}
}
