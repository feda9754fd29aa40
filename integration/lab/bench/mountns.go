package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// mountNamespace is a thread in another process's mount namespace. A process that it starts is in it from the beginning, so
// that measuring costs no nsenter.
type mountNamespace struct {
	work chan func()   // sent by the main goroutine, closed by leave
	done chan struct{} // closed by the thread's goroutine when it ends
}

func enterMountNamespace(pid int) (*mountNamespace, error) {
	m := &mountNamespace{work: make(chan func()), done: make(chan struct{})}
	entered := make(chan error)
	go func() {
		defer close(m.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		entered <- setMountNamespace(pid)
		for do := range m.work {
			do()
		}
	}()
	return m, <-entered
}

func setMountNamespace(pid int) error {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // threads that share their directory cannot change namespace
		return fmt.Errorf("a thread with its own file system state: %w", err)
	}
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace of process %d: %w", pid, err)
	}
	return nil
}

// do runs a function on the thread, and waits for its end.
func (m *mountNamespace) do(work func()) {
	ended := make(chan struct{})
	m.work <- func() { defer close(ended); work() }
	<-ended
}

func (m *mountNamespace) leave() {
	close(m.work)
	<-m.done
}
