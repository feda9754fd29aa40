// Command demo runs the example of the Kubernetes page "Attach Handlers to Container Lifecycle Events" with ctr alone, under a
// containerd that it starts and removes. It shows each command, what it prints, and a check of what it must show: the demo stops at
// the first check that fails.
//
//	make demo        or, with bin/ built:        go run -C integration ./demo
//
// It needs root, and a Debian mirror the first time (see integration/image).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/events"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
)

const (
	// patience bounds each wait. What is waited for takes milliseconds on an idle machine.
	patience = 30 * time.Second
	// hold is how long postStart sleeps, and about how long the request takes that is in flight at the stop.
	hold = 3 * time.Second
)

// lifecycle is the page's example, with a sleep so that there is time to look at the held start.
const lifecycle = `
postStart:
  exec:
    command: [/bin/sh, -c, "sleep 3; echo Hello from the postStart handler > /usr/share/message"]
preStop:
  exec:
    command: [/bin/sh, -c, "nginx -s quit; while killall -0 nginx; do sleep 1; done"]
stopSignal: SIGQUIT
terminationGracePeriodSeconds: 30
`

func (s *story) tell() {
	s.chapter("The start is held while postStart runs")
	run := s.background("run", "-d", "--runtime", "io.containerd.lifecycle.v2", "--runtime-config-path", s.options,
		"--annotation", "lifecycle-shim.io/lifecycle="+lifecycle, "--log-uri", "file://"+s.nginxLog, image.Ref, "web")
	s.until("nginx runs, and postStart beside it", s.psShows("nginx: master", "sleep 3"))
	s.check("the task is CREATED, not RUNNING", strings.Contains(s.ctr("task", "ls"), "CREATED"))
	s.check("there is no event /tasks/start", slices.Equal(s.topics(), []string{"/tasks/create"}))

	s.chapter("postStart has finished: the start returns")
	took := <-run
	s.check(fmt.Sprintf("ctr run returned after %.1f s, of which postStart slept %v", took.Seconds(), hold), took >= hold)
	s.check("the task is RUNNING", strings.Contains(s.ctr("task", "ls"), "RUNNING"))
	s.check("postStart has written its message", strings.Contains(s.ctr(inside("cat", "/usr/share/message")...), "Hello"))

	s.chapter("The stop waits for preStop, and nginx serves the request in flight to its end")
	url := fmt.Sprintf("http://127.0.0.1%s?rate=%d", image.DrainPath, image.DrainSize/int(hold.Seconds()))
	s.background(inside("wget", "-q", "-O", "/dev/null", url)...)
	s.until("the request is in flight", s.psShows("wget"))
	began := time.Now()
	s.ctr("task", "kill", "-s", "SIGQUIT", "web")
	s.check("the kill returned at once", time.Since(began) < time.Second)
	s.until("preStop runs", s.psShows("killall", "nginx -s quit"))
	s.check("the task is still RUNNING", strings.Contains(s.ctr("task", "ls"), "RUNNING"))
	s.until("nginx has exited", func() bool { return slices.Contains(s.topics(), "/tasks/exit") })
	s.check("the task is STOPPED", strings.Contains(s.ctr("task", "ls"), "STOPPED"))
	s.check("the request was served", s.shows(s.fileText(s.nginxLog), image.DrainPath, fmt.Sprint(" 200 ", image.DrainSize)))
	s.check("postStart succeeded", s.shows(s.daemon.Log(), "handler=postStart", "result=Succeeded"))
	// The page's preStop loops until nginx is gone, so it always ends with the container.
	s.check("the exit of the container ended preStop", s.shows(s.daemon.Log(), "handler=preStop", `"container exited"`))

	s.chapter("Removed")
	s.ctr("task", "rm", "web")
	s.ctr("container", "rm", "web")
	s.until("the events were create, start, exit, delete", func() bool {
		return slices.Equal(s.topics(), []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"})
	})
	leaks, err := s.watch.Leaks(s.ctx, s.before)
	s.fail(err)
	s.check(strings.Join(append(leaks, "no process, mount, cgroup or socket is left"), "\n"), len(leaks) == 0)
}

func main() {
	bin := flag.String("bin", "../bin", "folder with containerd, ctr, runc and the shim")
	cache := flag.String("cache", "../.cache", "folder that keeps the packages and the image")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	s := &story{ctx: ctx, began: time.Now(), namespace: fmt.Sprintf("demo-%d", os.Getpid())}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // a closed output (`| head`) must not leave containerd running
	if s.prepare(*bin, *cache); s.err == nil {
		s.tell()
	}
	s.takeDown()
	if s.err != nil {
		s.printf("✗ %v", s.err)
		os.Exit(1)
	}
	s.printf("✓ all of this was checked, and nothing is left")
}

// story is what the steps share. After the first error they do nothing, so that tell reads without a check after every line.
type story struct {
	ctx       context.Context
	err       error
	began     time.Time
	namespace string // containerd's, and the parent of the container's cgroup

	bin      string
	daemon   *harness.Daemon
	events   *harness.Events
	watch    harness.Watch
	before   harness.Snapshot
	options  string // file of the runtime's options: by default runc's state is in one folder for the whole machine
	nginxLog string
}

// prepare builds the image, and starts a containerd that has it.
func (s *story) prepare(bin, cache string) {
	s.chapter("An nginx image, and a containerd")
	if os.Geteuid() != 0 {
		s.fail(errors.New("containerd needs root: run `sudo make demo`"))
		return
	}
	nginx, err := image.Build(s.ctx, cache, func(what string) { s.printf("… %s", what) })
	s.fail(err)
	s.bin, err = filepath.Abs(bin)
	s.fail(err)
	server := slices.IndexFunc(harness.Servers(s.bin), func(server harness.Server) bool { return server.Name == "2.4" })
	if server < 0 {
		s.fail(fmt.Errorf("%s has no containerd 2.4: run `make build servers`", s.bin))
	}
	if s.err != nil {
		return
	}
	s.daemon, err = harness.StartDaemon(s.ctx, harness.DaemonConfig{Server: harness.Servers(s.bin)[server], BinDir: s.bin})
	if s.fail(err); err != nil {
		return
	}
	s.nginxLog, s.options = filepath.Join(s.daemon.Dir, "nginx.log"), filepath.Join(s.daemon.Dir, "runtime.toml")
	s.fail(os.WriteFile(s.options, fmt.Appendf(nil, "Root = %q\n", s.daemon.RuncRoot), 0o600))
	s.watch = harness.Watch{Daemons: []*harness.Daemon{s.daemon}}
	s.before, err = s.watch.TakeSnapshot()
	s.fail(err)
	client, err := s.daemon.Client(s.namespace)
	if s.fail(err); err == nil {
		s.events, err = client.Events(s.ctx)
		s.fail(err)
	}
	s.ctr("image", "import", "--local", nginx.Archive)
}

// takeDown ends containerd and what it has started, after an error too.
func (s *story) takeDown() {
	if s.daemon == nil {
		return
	}
	if s.err != nil {
		log := strings.Split(s.daemon.Log(), "\n")
		s.printf("the log of containerd and the shim ends with:\n%s", strings.Join(log[max(0, len(log)-25):], "\n"))
	}
	s.fail(s.daemon.Close())
	harness.RemoveCgroupParent("/" + s.namespace)
}

// fail notes the first error.
func (s *story) fail(err error) {
	if s.err == nil && err != nil {
		s.err = err
	}
}

func (s *story) printf(format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n ")
	fmt.Printf("%6.2fs  %s\n", time.Since(s.began).Seconds(), strings.ReplaceAll(text, "\n", "\n         "))
}

func (s *story) chapter(title string) {
	if s.err == nil {
		fmt.Printf("\n%s\n", title)
	}
}

// check shows that something is as it must be.
func (s *story) check(what string, ok bool) {
	switch {
	case s.err != nil:
	case !ok:
		s.fail(fmt.Errorf("not true: %s", what))
	default:
		s.printf("✓ %s", what)
	}
}

// until waits for something, and shows that it came.
func (s *story) until(what string, done func() bool) {
	if s.err == nil {
		s.fail(harness.Poll(s.ctx, patience, what, func() (bool, error) { return done(), nil }))
		s.check(what, s.err == nil)
	}
}

// command is ctr with the daemon's address. ^C is for the demo alone, which then takes everything down.
func (s *story) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "ctr"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "CONTAINERD_ADDRESS="+s.daemon.Address, "CONTAINERD_NAMESPACE="+s.namespace,
		"CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=true")
	return cmd
}

// ctr shows a command, runs it and shows what it prints.
func (s *story) ctr(args ...string) string {
	if s.err != nil {
		return ""
	}
	s.printf("$ ctr %s", strings.Join(args, " "))
	out, err := s.command(s.ctx, args...).CombinedOutput()
	if len(out) > 0 {
		s.printf("%s", out)
	}
	if err != nil {
		s.fail(fmt.Errorf("ctr %s: %w", args[0], err))
	}
	return string(out)
}

// background shows a command and runs it while the story continues. The channel gets how long it took.
func (s *story) background(args ...string) <-chan time.Duration {
	ended := make(chan time.Duration, 1)
	if s.err != nil {
		ended <- 0
		return ended
	}
	s.printf("$ ctr %s &", strings.Join(args, " "))
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	cmd, began := s.command(ctx, args...), time.Now()
	go func() {
		defer cancel()
		_ = cmd.Run() // the story looks at what it did
		ended <- time.Since(began)
	}()
	return ended
}

// serial gives each exec a name that no other has.
var serial int

func inside(args ...string) []string {
	serial++
	return append([]string{"task", "exec", "--exec-id", fmt.Sprint("e", serial), "web"}, args...)
}

// psShows reports whether the container's processes have all these words in their arguments.
func (s *story) psShows(words ...string) func() bool {
	return func() bool {
		out, err := s.command(s.ctx, inside("ps", "-o", "args")...).Output()
		return err == nil && !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(string(out), word) })
	}
}

// topics are those of the container's events, without those of an exec in it.
func (s *story) topics() []string {
	var topics []string
	for _, event := range s.events.Of("web") {
		exit, isExit := event.Value.(*events.TaskExit)
		if strings.HasPrefix(event.Topic, "/tasks/") && !strings.Contains(event.Topic, "exec") && (!isExit || exit.ID == "web") {
			topics = append(topics, event.Topic)
		}
	}
	return topics
}

// shows prints the line of a text that has all these words.
func (s *story) shows(text string, words ...string) bool {
	for line := range strings.Lines(text) {
		if s.err == nil && !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			s.printf("%s", line)
			return true
		}
	}
	return false
}

func (s *story) fileText(name string) string {
	text, _ := os.ReadFile(name) // an empty one fails the check
	return string(text)
}
