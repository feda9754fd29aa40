package main

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// load is a busy process for each CPU.
type load []*exec.Cmd

func startLoad() (load, error) {
	var l load
	for range runtime.NumCPU() {
		cmd := exec.Command("/bin/busybox", "sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // it must not outlive us
		if err := cmd.Start(); err != nil {
			return nil, errors.Join(fmt.Errorf("a busy process: %w", err), l.end())
		}
		l = append(l, cmd)
	}
	return l, nil
}

func (l load) end() error {
	var errs []error
	for _, cmd := range l {
		errs = append(errs, cmd.Process.Kill())
		_ = cmd.Wait() // it says that it was killed
	}
	return errors.Join(errs...)
}
