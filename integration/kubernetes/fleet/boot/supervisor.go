package boot

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// restartPause is how long a program that has ended stays down, as with a supervisor's back-off: one that ends at once must not take a
// processor for itself.
const restartPause = time.Second

// superviseAll runs the programs, starts each again when it has ended, and reaps everything else, as the first of a pid namespace has to.
// It returns only if a program cannot be started at all.
func superviseAll(programs []Program) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD) // before the first start: several ends may be one signal
	running := map[int]Program{}
	due := make(chan Program, len(programs))
	for _, p := range programs {
		due <- p
	}
	for {
		select {
		case p := <-due:
			pid, err := start(p)
			if err != nil {
				return err
			}
			running[pid] = p
		case <-ended:
			for _, pid := range reap() {
				if p, ok := running[pid]; ok {
					delete(running, pid)
					time.AfterFunc(restartPause, func() { due <- p })
				}
			}
		}
	}
}

// start does not wait for it: the reaper does.
func start(p Program) (int, error) {
	log, err := os.OpenFile(filepath.Join("/var/log", p.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	process, err := os.StartProcess(p.Args[0], p.Args, &os.ProcAttr{
		Dir: "/", Env: append([]string{nodePath}, p.Env...), Files: []*os.File{null, log, log},
		Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p.Name, err)
	}
	defer func() { _ = process.Release() }()
	return process.Pid, nil
}

// reap lists the processes that have ended since.
func reap() (pids []int) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || pid == 0:
			return pids
		default:
			pids = append(pids, pid)
		}
	}
}
