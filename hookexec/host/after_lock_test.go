package host

import (
	"os"
	"os/exec"
	"path/filepath"
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
		lock, err := lockAfter(&wire.After{Dir: dir, Shim: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("locked\n")
		_ = unix.Pause() // until it is killed
		_ = lock.Close()
	}
	dir := filepath.Join(t.TempDir(), "onExit")
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
		lock, err := lockAfter(&wire.After{Dir: dir, Shim: os.Getpid()})
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
	lock, err := lockAfter(&wire.After{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	<-ended
	if status, ok := hung.ProcessState.Sys().(interface{ Signal() unix.Signal }); !ok || status.Signal() != unix.SIGKILL {
		t.Errorf("the host that hung: %v", hung.ProcessState)
	}
	_ = lock.Close()
	_ = (<-waits).Close()
}
