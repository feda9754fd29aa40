package harness

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// Program is a server that runs beside the test. What starts and stops it is not safe for concurrent use. It is
// in its own process group: ^C is for the test, which then stops it in order.
type Program struct {
	Name    string // in errors
	Args    []string
	Env     []string
	LogFile string // gets its output, of all its starts
	// Unshare are flags of clone(2): its own namespaces.
	Unshare uintptr
	// StopLimit bounds the time from a signal to the program's end; 0: stopLimit.
	StopLimit time.Duration

	cmd    *exec.Cmd     // nil while stopped
	exited chan struct{} // closed, by the goroutine that waits for cmd, when cmd has ended
}

// Start returns when the program runs, which does not say that it answers yet.
func (p *Program) Start() error {
	if p.cmd != nil {
		return fmt.Errorf("%s already runs: stop it first", p.Name)
	}
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of %s: %w", p.Name, err)
	}
	defer log.Close() // the child has its own descriptor

	obeyHangup()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Env = p.Env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: p.Unshare} // with CLONE_NEWNS, Go makes / private too
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	p.cmd, p.exited = cmd, make(chan struct{})
	go func(done chan<- struct{}) {
		_ = cmd.Wait() // its status is in cmd.ProcessState
		close(done)
	}(p.exited)
	return nil
}

// obeyHangup undoes nohup: a process inherits that SIGHUP is ignored, down to a container's, which this signal does not end then.
// What is caught instead is the default in a child.
func obeyHangup() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}

// Stop sends a signal that ends the program, and waits for its end. A program that does not run is left alone.
func (p *Program) Stop(sig syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%v to %s: %w", sig, p.Name, err)
	}
	var late error
	limit := cmp.Or(p.StopLimit, stopLimit)
	select {
	case <-p.exited:
	case <-time.After(limit):
		late = fmt.Errorf("%s did not end within %v of %v, it was killed\n%s", p.Name, limit, sig, tail(p.Log()))
		_ = p.cmd.Process.Kill()
		<-p.exited // SIGKILL: only an uninterruptible sleep, a broken kernel, could make this last
	}
	p.cmd = nil
	return late
}

// Ended is an error if the program has been started and has ended by itself.
func (p *Program) Ended() error {
	if p.cmd == nil {
		return nil
	}
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended: %v", p.Name, p.cmd.ProcessState)
	default:
		return nil
	}
}

// Pid is the program's process id, 0 while it is stopped.
func (p *Program) Pid() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Log is everything the program has printed, over all its starts.
func (p *Program) Log() string {
	text, err := os.ReadFile(p.LogFile)
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	return string(text)
}
