package node

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockWithin is how long an installation waits for another one, which copies files and may restart containerd.
const lockWithin = 10 * time.Second

// lock keeps other installations for the same containerd away. It locks the directory of the configuration, or the nearest one
// above it that exists, so that it leaves nothing. The kernel releases it when the process ends. waited is set if another one has
// ended meanwhile, so that facts are not valid any more.
func lock(config string, within time.Duration) (unlock func(), waited bool, failure *Failure) {
	dir := filepath.Dir(config)
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	file, err := os.Open(dir)
	if err != nil {
		return nil, false, fail(StepJournal, "", "cannot lock %s: %s. %s", dir, err, nothing)
	}
	deadline := time.Now().Add(within)
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, waited, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			_ = file.Close()
			return nil, true, fail(StepJournal, "", "cannot lock %s, because another installation is running: %s. %s", dir, err, nothing)
		}
		waited = true
		<-time.After(askAgain)
	}
}
