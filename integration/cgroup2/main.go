package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// When the recipe's shell is ended, this program is too, as by its own signal: make passes none on to it.
func init() { // in the main thread, whose parent counts
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0); err != nil {
		panic(err)
	}
}

func main() {
	repository := flag.String("repository", ".", "the repository's directory")
	pattern := flag.String("run", "", "only the tests that match; all by default")
	tags := flag.String("tags", "", "build tags of the tests")
	out := flag.String("out", "cgroup2.json", "file for the events of the tests, as test2json has them")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := cgroup2(ctx, *repository, *tags, *pattern, *out)
	stop()
	end(err)
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "cgroup2:", err)
		os.Exit(1)
	}
}

func cgroup2(ctx context.Context, repository, tags, pattern, out string) (err error) {
	if err := possible(); err != nil {
		return err
	}
	repository, err = filepath.Abs(repository)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lcs-cgroup2-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintln(os.Stdout, "cgroup2: making the machine (3 min the first time)")
	m, err := newDebian(ctx, filepath.Join(repository, ".cache/cgroup2"), filepath.Join(repository, "tools/foreign"))
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "cgroup2: building the tests")
	if m.tests, err = newTests(ctx, repository, dir, tags, pattern); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "cgroup2: booting")
	began := time.Now()
	console := &result{out: os.Stdout, speaks: func() { _ = os.RemoveAll(dir) }} // its disks are open: nothing stays, however this ends
	err = m.boot(ctx, console)
	fmt.Fprintf(os.Stdout, "cgroup2: the machine ran for %s\n", time.Since(began).Round(time.Second))
	return errors.Join(err, console.err(), console.report(ctx, repository, out, pattern == ""))
}

// possible says what is missing for a run here.
func possible() error {
	if runtime.GOARCH != "amd64" {
		return errors.New("the machine is an amd64, with the programs that `make build servers` has made here: run it on an amd64")
	}
	if os.Geteuid() != 0 {
		return errors.New("a Debian is installed into a directory here: run it as root")
	}
	for _, program := range []string{"qemu-system-x86_64", "debootstrap", "mke2fs", "cpio", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: run `make deps-cgroup2`", err)
		}
	}
	return nil
}

// command is one that ends with us, and with ctx.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL} // ^C is for us, who then end it
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// run runs a program, which must succeed, and shows what it printed only if it does not.
func run(ctx context.Context, name string, args ...string) error {
	cmd := command(ctx, name, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, lastOf(said.Bytes()))
	}
	return nil
}

// lastOf a program's output is what an error shows.
func lastOf(text []byte) []byte { return text[max(0, len(text)-4000):] }
