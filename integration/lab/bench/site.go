package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const (
	oursRuntime = "io.containerd.lifecycle.v2"
	// patience bounds every wait for what takes a second at most, throttled containers too.
	patience = time.Minute
	// unified is the cgroup2 mount of a hybrid layout. crun 1.8.1 refuses to run beside it.
	unified = "/sys/fs/cgroup/unified"
)

// name is containerd's namespace, and the parent of our cgroups: two benchmarks at once must differ.
var name = fmt.Sprintf("bench-%d", os.Getpid())

// site is a containerd with what is measured on it. Only the main goroutine uses it.
type site struct {
	bin    string
	daemon *harness.Daemon
	client *harness.Client
	events *harness.Events
	rootfs string // shared by all containers: nothing is written to it

	// crun's containers are made by the stock shim under a daemon that hides the unified hierarchy, where there is one.
	crunDaemon *harness.Daemon
	crunClient *harness.Client
	crunEvents *harness.Events
	// inCrun starts commands where crun's containers and their cgroups are seen.
	inCrun *mountNamespace

	watch  harness.Watch
	before harness.Snapshot
	serial int
	began  time.Time
}

func newSite(ctx context.Context, bin string) (_ *site, err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	for _, program := range []string{"containerd", "ctr", "runc", "containerd-shim-runc-v2", "containerd-shim-lifecycle-v2", "lifecycle-hookexec"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			return nil, fmt.Errorf("%w: run `make bench`, which builds it", err)
		}
	}
	for _, program := range []string{"crun", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w: `make deps` installs it", err)
		}
	}
	s := &site{bin: bin, began: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.daemon, s.client, s.events, err = s.start(ctx, false); err != nil {
		return s, err
	}
	_, err = os.Stat(unified)
	if s.crunDaemon, s.crunClient, s.crunEvents, err = s.start(ctx, err == nil); err != nil {
		return s, err
	}
	if s.inCrun, err = enterMountNamespace(s.crunDaemon.Pid()); err != nil {
		return s, err
	}
	s.rootfs = filepath.Join(s.daemon.Dir, "rootfs")
	if err = harness.NewRootFS(s.rootfs); err != nil {
		return s, err
	}
	s.watch = harness.Watch{Daemons: []*harness.Daemon{s.daemon, s.crunDaemon}, CgroupParents: []string{"/" + name}}
	s.before, err = s.watch.TakeSnapshot()
	return s, err
}

// start starts a containerd, and listens to its events: a shim without a reader of its events waits 5 s for each.
func (s *site) start(ctx context.Context, hideUnified bool) (*harness.Daemon, *harness.Client, *harness.Events, error) {
	for _, server := range harness.Servers(s.bin) {
		if server.Name != "2.4" {
			continue
		}
		d, err := harness.StartDaemon(ctx, harness.DaemonConfig{Server: server, BinDir: s.bin, HideUnified: hideUnified})
		if err != nil {
			return nil, nil, nil, err
		}
		client, err := d.Client(name)
		if err != nil {
			return d, nil, nil, err
		}
		events, err := client.Events(ctx)
		return d, client, events, err
	}
	return nil, nil, nil, fmt.Errorf("%s/containerd is not containerd 2.4: run `make bench`, which builds it", s.bin)
}

// close takes everything down, and reports leftovers. It has its own time: the benchmark's may be up.
func (s *site) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.inCrun != nil {
		s.inCrun.leave()
	}
	var errs []error
	for _, d := range []*harness.Daemon{s.daemon, s.crunDaemon} {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	harness.RemoveCgroupTree("/" + name)
	_ = os.Remove(filepath.Join("/run/containerd/runc", name)) // runc leaves it where ctr names no other root; gone, or never there
	if s.before != nil {
		leaks, err := s.watch.Leaks(ctx, s.before)
		errs = append(errs, err)
		if len(leaks) > 0 {
			errs = append(errs, fmt.Errorf("left behind: %s", strings.Join(leaks, "\n")))
		}
	}
	return errors.Join(errs...)
}

func (s *site) say(format string, args ...any) {
	fmt.Fprintf(os.Stdout, "%5.0f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// nextID names a container or an exec.
func (s *site) nextID(prefix string) string {
	s.serial++
	return fmt.Sprintf("%s%d", prefix, s.serial)
}

// command is a program of bin/, in its own process group: a ^C at the terminal is for us.
func (s *site) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	path := filepath.Join(s.bin, program)
	if _, err := os.Stat(path); err != nil {
		path, _ = exec.LookPath(program) // newSite has looked
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	return cmd
}

// timed runs a command, and says how long that took from before its fork to after its wait, in ms. Its output is a file: a pipe
// would have to be read by us.
func (s *site) timed(cmd *exec.Cmd) (float64, error) {
	output, err := os.Create(filepath.Join(s.daemon.Dir, "output"))
	if err != nil {
		return 0, err
	}
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	began := time.Now()
	err = cmd.Run()
	took := since(began)
	if err != nil {
		words, _ := os.ReadFile(output.Name()) // the command's error says enough without
		return 0, fmt.Errorf("%v: %w: %s", cmd.Args, err, strings.TrimSpace(string(words)))
	}
	return took, nil
}

// since is in ms.
func since(began time.Time) float64 { return millis(time.Since(began)) }

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// idle lets time pass, so that what follows does not find what came before still in the caches and in the kernel's queues.
func idle(ctx context.Context, pause time.Duration) error {
	if pause == 0 {
		return nil
	}
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
