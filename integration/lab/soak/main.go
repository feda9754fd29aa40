// Command soak runs thousands of handlers under a private containerd, and fails where something is lost, grows, or is
// left behind. It is `make soak`; docs/measurements.md#endurance has the method and the last result.
//
// Two passes:
//
//	containers (containers.go)  many containers with both handlers, each with its own shim, so many at a time
//	shim       (shim.go)        one pod whose containers come and go while its shim runs handlers, and reports what it
//	                            uses after each batch
//
// flat.go judges the shim's series, page.go writes the page. Like all integration tests it is a black box: it knows the
// annotations, the events and the status service.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Config says how much to do.
type Config struct {
	// Containers with both handlers, so many of them at a time.
	Containers int `json:"containers"`
	Parallel   int `json:"parallel"`
	// Pod is how many containers the pod of the shim under test has all the time.
	Pod int `json:"podContainers"`
	// Handlers that its shim runs, at least.
	Handlers int `json:"handlers"`
}

// Result of a run. Times are in seconds.
type Result struct {
	Began   time.Time `json:"began"`
	Machine string    `json:"machine"`
	Commit  string    `json:"commit"`
	Seconds float64   `json:"seconds"`
	Config  Config    `json:"config"`

	Containers ContainersResult `json:"containersPass"`
	Shim       ShimResult       `json:"shimPass"`
	// Left are what remained: processes, mounts, cgroups, sockets, directories.
	Left []string `json:"left"`
}

func main() {
	config := Config{}
	flag.IntVar(&config.Containers, "containers", 2000, "containers with both handlers")
	flag.IntVar(&config.Parallel, "parallel", 100, "so many of them at a time")
	flag.IntVar(&config.Pod, "pod", 30, "containers of the pod")
	flag.IntVar(&config.Handlers, "handlers", 5000, "handlers that the pod's shim runs")
	tables := flag.String("tables", "", "also write the tables to this file, as Markdown")
	bin := flag.String("bin", "../bin", "directory of the programs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	result, err := soak(ctx, config, *bin, os.Stderr)
	if result != nil {
		_, _ = os.Stdout.WriteString(result.Tables())
		encoder := json.NewEncoder(os.Stdout)
		_ = encoder.Encode(result)
	}
	if err == nil && *tables != "" {
		err = os.WriteFile(*tables, []byte(result.Tables()), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1) //nolint:gocritic // stop only gives signals back
	}
}

// run is one run under way.
type run struct {
	config Config
	daemon *harness.Daemon
	cri    *harness.CRI
	// port of a server on the loopback device, which httpGet and tcpSocket handlers find: containers are on the host's
	// network.
	port     int
	progress func(format string, args ...any)
}

// handlerName is CRI's runtime handler, and runtimeType its type.
const (
	handlerName = "lifecycle"
	runtimeType = "io.containerd.lifecycle.v2"
)

// soak does it all. Where there is a result, it goes with an error too.
func soak(ctx context.Context, config Config, bin string, out io.Writer) (_ *Result, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("containers are made here: run it as root")
	}
	began := time.Now()
	r := &run{config: config, progress: func(format string, args ...any) {
		fmt.Fprintf(out, "%4.0f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}}
	if err := r.start(ctx, bin); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	port, stop, err := serve()
	if err != nil {
		return nil, err
	}
	defer stop()
	r.port = port
	watch := harness.Watch{Daemons: []*harness.Daemon{r.daemon}, CgroupParents: []string{r.cgroupParent()}, NetNS: true}
	before, err := watch.TakeSnapshot()
	if err != nil {
		return nil, err
	}
	result := &Result{Began: began.UTC().Truncate(time.Second), Machine: harness.Machine(), Commit: harness.Commit(), Config: config}
	errs := []error{}
	if result.Containers, err = r.containers(ctx); err != nil {
		errs = append(errs, fmt.Errorf("containers: %w", err))
	}
	if ctx.Err() == nil {
		if result.Shim, err = r.shim(ctx); err != nil {
			errs = append(errs, fmt.Errorf("one shim: %w", err))
		}
	}
	r.progress("looking for leftovers")
	leaks, err := watch.Leaks(ctx, before)
	result.Left = append(leaks, r.daemon.Leftovers()...)
	errs = append(errs, err)
	if n := len(result.Left); n > 0 {
		errs = append(errs, fmt.Errorf("%d things are left behind, such as %s", n, result.Left[0]))
	}
	for _, bug := range []string{"DATA RACE", "panic in ", "goroutine 1 ["} {
		if strings.Contains(r.daemon.Log(), bug) {
			errs = append(errs, fmt.Errorf("a shim's log has %q", bug))
		}
	}
	result.Seconds = seconds(time.Since(began))
	err = errors.Join(errs...)
	if err != nil {
		fmt.Fprintln(out, "containerd's log ends with:\n"+r.daemon.LogTail())
	}
	return result, err
}

// start starts the containerd.
func (r *run) start(ctx context.Context, bin string) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	servers := harness.Servers(bin)
	if len(servers) == 0 {
		return errors.New("there is no containerd: run `make build servers` first")
	}
	r.daemon, err = harness.StartDaemon(ctx, harness.DaemonConfig{
		Server: servers[0], BinDir: bin, CRI: true,
		Handlers: map[string]harness.RuntimeHandler{handlerName: {Type: runtimeType}},
	})
	if err != nil {
		return err
	}
	if r.cri, err = r.daemon.CRI(); err == nil {
		err = r.cri.ImportImages(ctx, harness.ImageBusybox)
	}
	if err != nil {
		return errors.Join(err, r.close())
	}
	return nil
}

func (r *run) close() error {
	err := r.daemon.Close()
	harness.RemoveCgroupTree(r.cgroupParent())
	return err
}

func (r *run) cgroupParent() string { return "/" + filepath.Base(r.daemon.Dir) }

// seconds of a duration, to the millisecond.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
