package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// Runtime is the runtime type under test.
const Runtime = "io.containerd.lifecycle.v2"

// Annotation keys, as docs/spec.md#keys has them.
const (
	keyLifecycle = "lifecycle-shim.io/lifecycle"
	keyPostStart = "lifecycle-shim.io/postStart"
	keyPreStop   = "lifecycle-shim.io/preStop"
)

// limit bounds every wait. It is long, because it is only reached by a failure: eight containers start at once here.
const limit = 90 * time.Second

// world is a containerd with a dockerd beside it.
type world struct {
	daemon *harness.Daemon
	docker *harness.Docker
	events *harness.Events
	watch  harness.Watch
	before harness.Snapshot
}

// shared is the world of all tests but those that stop dockerd. It is made by the first of them.
var shared = struct {
	sync.Mutex
	*world
}{}

func TestMain(m *testing.M) {
	harness.Parallel(8)
	code := m.Run()
	if shared.world != nil {
		if err := shared.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func binDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"containerd-shim-lifecycle-v2", "lifecycle-hookexec", "lifecyclectl", "containerd", "ctr", "runc", "dockerd", "docker", "docker-compose", "nerdctl"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatalf("%v: run `make docker`, which builds it", err)
		}
	}
	return dir
}

// newWorld starts both daemons, and loads the images. settings are of daemon.json; files of theirs may be in dir.
func newWorld(t testing.TB, settings func(dir string) (map[string]any, error)) *world {
	t.Helper()
	return newWorldWithOpt(t, "", settings)
}

// newWorldWithOpt is one whose containerd has this directory for /opt/containerd.
func newWorldWithOpt(t testing.TB, opt string, settings func(dir string) (map[string]any, error)) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("containers are made here: run the tests as root")
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	daemon, err := harness.StartDaemon(ctx, harness.DaemonConfig{Server: harness.Servers(binDir(t))[0], BinDir: binDir(t), Debug: true, Opt: opt})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{daemon: daemon}
	if err := w.start(ctx, binDir(t), settings); err != nil {
		t.Fatal(errors.Join(err, daemon.Close()))
	}
	return w
}

func (w *world) start(ctx context.Context, bin string, settings func(dir string) (map[string]any, error)) error {
	parent := "/" + filepath.Base(w.daemon.Dir) // where ctr and nerdctl put containers too
	w.watch = harness.Watch{Daemons: []*harness.Daemon{w.daemon}, CgroupParents: []string{parent}, NetNS: true, Sysctls: true}
	before, err := w.watch.TakeSnapshot()
	if err != nil {
		return err
	}
	config := harness.DockerConfig{BinDir: bin, CgroupParent: parent}
	if config.Settings, err = settings(w.daemon.Dir); err != nil {
		return err
	}
	if w.docker, err = w.daemon.StartDocker(ctx, config); err != nil {
		return err
	}
	if err := w.addCompose(bin); err != nil {
		return err
	}
	client, err := w.daemon.Client(w.docker.Namespace())
	if err != nil {
		return err
	}
	if w.events, err = client.Events(context.Background()); err != nil {
		return err
	}
	if err := w.docker.Load(ctx, harness.ImageBusybox, harness.ImageBusyboxQuit); err != nil {
		return err
	}
	w.before, err = w.watch.TakeSnapshot() // with dockerd's own mounts
	for what := range w.before {
		if strings.HasPrefix(what, "zombie: ") { // a command of a test beside this one, whose output has not ended
			continue
		}
		if !before[what] && !strings.HasPrefix(what, "mount: "+w.daemon.Dir) {
			err = errors.Join(err, fmt.Errorf("dockerd has made on the machine: %s", what))
		}
	}
	return err
}

// addCompose puts docker compose where docker looks for its plugins.
func (w *world) addCompose(bin string) error {
	for _, variable := range w.docker.Env() {
		if dir, ok := strings.CutPrefix(variable, "DOCKER_CONFIG="); ok {
			plugins := filepath.Join(dir, "cli-plugins")
			return errors.Join(os.MkdirAll(plugins, 0o755), os.Symlink(filepath.Join(bin, "docker-compose"), filepath.Join(plugins, "docker-compose")))
		}
	}
	return errors.New("docker's client has no DOCKER_CONFIG")
}

// close looks for leaks, and takes everything down.
func (w *world) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var errs []error
	leaks, err := w.watch.Leaks(ctx, w.before)
	for _, leak := range leaks {
		errs = append(errs, fmt.Errorf("left behind: %v", leak))
	}
	for _, bug := range []string{"DATA RACE", "panic in ", "goroutine 1 ["} {
		if strings.Contains(w.daemon.Log(), bug) {
			errs = append(errs, fmt.Errorf("the shims' log has %q", bug))
		}
	}
	w.events.Close()
	errs = append(errs, err, w.docker.Close(), w.daemon.Close())
	// runc keeps the directory of a namespace in its default root, where no options name another. docker's is anybody's.
	errs = append(errs, os.RemoveAll(filepath.Join("/run/containerd/runc", w.docker.Namespace())))
	_ = os.Remove("/run/containerd/runc/moby")
	for _, parent := range w.watch.CgroupParents {
		harness.RemoveCgroupParent(parent)
	}
	return errors.Join(errs...)
}

// bench is what one test works with.
type bench struct {
	*testing.T
	*world
	dir   string // mounted in its containers, and their working directory
	names []string
}

// newBench is of the shared world, beside other tests.
func newBench(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	return newBenchIn(t, sharedWorld(t))
}

func sharedWorld(t *testing.T) *world {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.world == nil {
		shared.world = newWorld(t, runtimes)
	}
	return shared.world
}

func newBenchIn(t *testing.T, w *world) *bench {
	t.Helper()
	b := &bench{T: t, world: w, dir: t.TempDir()}
	t.Cleanup(func() {
		b.touch("go")                  // a handler that still waits would keep docker rm waiting
		for _, name := range b.names { // in any state; gone already is fine
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			out, err := b.docker.Run(ctx, nil, "docker", "rm", "--force", "--volumes", name)
			cancel()
			if err != nil || out.Status != 0 {
				t.Errorf("docker rm %s: status %d, %v: %s", name, out.Status, err, out.Stderr)
			}
		}
		if t.Failed() {
			t.Logf("dockerd's log ends with:\n%s", lastLines(b.docker.Log(), 20))
			t.Logf("containerd's log ends with:\n%s", lastLines(b.daemon.Log(), 20))
		}
	})
	return b
}

func lastLines(text string, count int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// command runs a client's command, with any exit status.
func (b *bench) command(words ...string) harness.Output {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	out, err := b.docker.Run(ctx, nil, words...)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// ok runs a client's command, which must succeed.
func (b *bench) ok(words ...string) harness.Output {
	b.Helper()
	return b.want(0, words...)
}

// want runs a client's command, which must end with that status.
func (b *bench) want(status int, words ...string) harness.Output {
	b.Helper()
	out := b.command(words...)
	if out.Status != status {
		b.Fatalf("%q has ended with status %d, want %d\n%s%s", words, out.Status, status, out.Stdout, out.Stderr)
	}
	return out
}

// later runs a client's command in the background.
func (b *bench) later(words ...string) <-chan harness.Output {
	done := make(chan harness.Output, 1)
	go func() {
		out, err := b.docker.Run(b.Context(), nil, words...)
		if err != nil && b.Context().Err() == nil {
			out.Stderr += err.Error()
		}
		done <- out
	}()
	return done
}

// answer waits for a command in the background, which must end with that status.
func (b *bench) answer(done <-chan harness.Output, status int) harness.Output {
	b.Helper()
	select {
	case out := <-done:
		if out.Status != status {
			b.Fatalf("status %d, want %d\n%s%s", out.Status, status, out.Stdout, out.Stderr)
		}
		return out
	case <-time.After(limit):
		b.Fatal("the command has not ended")
		return harness.Output{}
	}
}

// spec is a container to be run.
type spec struct {
	client  string // docker, unless set
	flags   []string
	image   string // busybox, unless set
	runtime string // Runtime, unless set; "default": docker's
	// block, postStart and preStop are annotations, in YAML.
	block, postStart, preStop string
	args                      []string // obedient, unless set
}

// name is unique in the world, and is the container's that the test removes at its end.
func (b *bench) name(name string) string {
	allowed := func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789_-", r) {
			return r
		}
		return '-'
	}
	name = strings.Map(allowed, strings.ToLower(b.Name())) + "-" + name
	b.names = append(b.names, name)
	return name
}

// words of `docker run`, or nerdctl's.
func (b *bench) words(name string, s spec) []string {
	words := []string{"docker", "run", "--name", name, "--volume", b.dir + ":/s", "--workdir", "/s"}
	if s.client != "" {
		words[0] = s.client
	}
	switch s.runtime {
	case "":
		words = append(words, "--runtime", Runtime)
	case "default":
	default:
		words = append(words, "--runtime", s.runtime)
	}
	for key, value := range map[string]string{keyLifecycle: s.block, keyPostStart: s.postStart, keyPreStop: s.preStop} {
		if value != "" {
			words = append(words, "--annotation", key+"="+value)
		}
	}
	if s.image == "" {
		s.image = harness.ImageBusybox
	}
	if s.args == nil {
		s.args = obedient
	}
	return append(append(append(words, s.flags...), s.image), s.args...)
}

// run runs a container in the background of docker, which must have started it.
func (b *bench) run(name string, s spec) string {
	b.Helper()
	s.flags = append([]string{"--detach"}, s.flags...)
	name = b.name(name)
	b.ok(b.words(name, s)...)
	b.wantFile("ready", name) // of args: its traps are set
	return name
}

// inspect is what docker says of a container.
func (b *bench) inspect(name, format string) string {
	b.Helper()
	return strings.TrimSpace(b.ok("docker", "inspect", "--format", format, name).Stdout)
}

func (b *bench) wantInspect(name, format, want string) {
	b.Helper()
	if got := b.inspect(name, format); got != want {
		b.Errorf("docker inspect says %q of %s, want %q", got, format, want)
	}
}

// ended is the state and exit code of a container.
const ended = "{{.State.Status}} {{.State.ExitCode}}"

// wantEnded waits for a container's end.
func (b *bench) wantEnded(name, status string) {
	b.Helper()
	if got := strings.TrimSpace(b.ok("docker", "wait", name).Stdout); got != status {
		b.Errorf("docker wait says %s, want %s", got, status)
	}
	b.wantInspect(name, ended, "exited "+status)
}

// logs are what the container has printed.
func (b *bench) logs(name string) string {
	b.Helper()
	return b.ok("docker", "logs", name).Stdout
}

func (b *bench) poll(what string, done func() bool) {
	b.Helper()
	if err := harness.Poll(b.Context(), limit, what, func() (bool, error) { return done(), nil }); err != nil {
		b.Fatal(err)
	}
}

// read is what the containers, or their handlers, have written; empty if nothing.
func (b *bench) read(file string) string {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, file))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.Fatal(err)
	}
	return string(text)
}

func (b *bench) wantRead(file, want string) {
	b.Helper()
	if got := b.read(file); got != want {
		b.Errorf("%s holds %q, want %q", file, got, want)
	}
}

// wantFile waits for a file, of which who says whose it is.
func (b *bench) wantFile(file, who string) {
	b.Helper()
	b.poll(fmt.Sprintf("%s of %s", file, who), func() bool {
		_, err := os.Stat(filepath.Join(b.dir, file))
		return err == nil
	})
}

// touch lets a handler continue.
func (b *bench) touch(file string) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, file), nil, 0o600); err != nil {
		b.Fatal(err)
	}
}

// remove lets it wait again.
func (b *bench) remove(files ...string) {
	b.Helper()
	for _, file := range files {
		if err := os.Remove(filepath.Join(b.dir, file)); err != nil {
			b.Fatal(err)
		}
	}
}

func (b *bench) wantSaid(text string, parts ...string) {
	b.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			b.Errorf("%q does not say %q", text, part)
		}
	}
}

// results are how the container's handlers have ended, in their order: "postStart Succeeded".
func (b *bench) results(id string) []string {
	var results []string
	for _, event := range b.events.Of(id) {
		if finished, ok := event.Value.(*lifecyclev1.HandlerFinished); ok {
			results = append(results, finished.Handler+" "+finished.Result)
		}
	}
	return results
}

// wantResults waits for them: events may come after what they are about.
func (b *bench) wantResults(id string, want ...string) {
	b.Helper()
	b.poll("the handlers' events", func() bool { return len(b.results(id)) >= len(want) })
	if got := b.results(id); strings.Join(got, ", ") != strings.Join(want, ", ") {
		b.Errorf("handlers have ended with %q, want %q", got, want)
	}
}

// id of a container of docker's.
func (b *bench) id(name string) string {
	b.Helper()
	return b.inspect(name, "{{.Id}}")
}

// shell is a handler, in YAML, that runs a shell script.
func shell(script string) string {
	return fmt.Sprintf("exec: {command: [/bin/sh, -c, %q]}", script)
}

// patiently is a block whose preStop has all the time that a test on a busy machine needs, and not 8 s.
func patiently(preStop string) string {
	return "preStop: {" + preStop + "}\nterminationGracePeriodSeconds: 600"
}

// waiting reports to the test that the handler has begun, and waits until it may continue.
const waiting = `touch begun; while [ ! -e go ]; do sleep 0.05; done; `

// obedient writes down which signals it gets, and exits with 7 at SIGTERM, with 8 at SIGQUIT.
var obedient = []string{"/bin/sh", "-c", `
	trap 'echo TERM >> signals; exit 7' TERM; trap 'echo QUIT >> signals; exit 8' QUIT; trap 'echo HUP >> signals' HUP
	touch ready; echo up; sleep 1000 & while :; do wait; done`}

// stubborn ignores SIGTERM.
var stubborn = []string{"/bin/sh", "-c", `trap 'echo TERM >> signals' TERM; touch ready; echo up; sleep 1000 & while :; do wait; done`}
