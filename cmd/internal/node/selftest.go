package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/doctor"
)

// SelfTest is the result of running a container with all four handlers.
type SelfTest struct {
	OK           bool   `json:"ok"`
	Message      string `json:"message"`
	Milliseconds int64  `json:"milliseconds"`
}

// Limits of the self test. It takes less than a second on an idle machine.
const (
	testWithin    = 60 * time.Second
	cleanUpWithin = 30 * time.Second
)

// Paths in the container of the self test, and of its files on the node.
const (
	testProgram = "/lifecyclectl"
	testResults = "/results"
	testLog     = "log"
	testDir     = "/run"
	testPrefix  = "lifecycle-shim-check-"
)

// Stages that the container's process and its handlers write down.
const (
	stageProcess = "process"
	stageStarted = "started"
	stageStopped = "stopped"
)

// testHandlers in the order in which they run.
var testHandlers = []string{"preStart", "postStart", "preStop", "onExit"}

// Address returns the socket of the containerd that the options choose.
func Address(ctx context.Context, o Options) (string, error) {
	chosen, failure := find(o)
	if failure != nil {
		return "", failure
	}
	if chosen.pid == 0 {
		return "", errors.New("no containerd runs on this machine: start it (systemctl start containerd), or name its socket with --address")
	}
	live, err := doctor.FindLive(ctx, chosen.pid)
	if err != nil {
		return "", fmt.Errorf("containerd, process %d, does not answer: %w", chosen.pid, err)
	}
	return live.Address, nil
}

// RunSelfTest runs a container with all four handlers under the handler's runtime, and removes everything after it.
func RunSelfTest(ctx context.Context, c doctor.Containerd) SelfTest {
	ctx, cancel := context.WithTimeout(ctx, testWithin)
	defer cancel()
	began := time.Now()
	err := runSelfTest(ctx, c)
	result := SelfTest{OK: err == nil, Milliseconds: time.Since(began).Milliseconds()}
	if err != nil {
		result.Message = fail("", "", "cannot run a container with handlers: %s", err).Message
	}
	return result
}

func runSelfTest(ctx context.Context, c doctor.Containerd) (err error) {
	live, err := trust.Server(ctx, c.Address)
	if err != nil {
		return err
	}
	conn, err := live.Client(c.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	removeLeftovers(ctx, conn)
	dir, err := os.MkdirTemp(testDir, testPrefix+itoa(os.Getpid())+"-")
	if err != nil {
		return err
	}
	t := &selfTest{
		conn: conn, name: filepath.Base(dir), dir: dir, runtime: runtimeOf(c), action: actionOf(c.Settings.AllowedHandlers),
		program: filepath.Join(filepath.Dir(c.Shim.Path), ctlName),
	}
	defer func() { err = errors.Join(err, t.cleanUp(ctx)) }()
	for _, made := range []string{"rootfs", "results"} {
		if err := os.Mkdir(filepath.Join(dir, made), 0o755); err != nil {
			return err
		}
	}
	if err := t.run(ctx); err != nil {
		return err
	}
	text, err := trust.ReadFile(filepath.Join(dir, "results", testLog), maxFile)
	if err != nil {
		return err
	}
	return judgeStages(strings.Fields(string(text)), t.action == actionExec)
}

// Types of the self test's handlers.
const (
	actionExec  = "exec"
	actionSleep = "sleep"
)

// actionOf returns a type of handler that the operator allows for all moments, or "" if there is none: then the container has no
// handlers. Only exec shows the order.
func actionOf(allowed []string) string {
	for _, action := range []string{actionExec, actionSleep} {
		if allowed == nil || slices.Contains(allowed, action) {
			return action
		}
	}
	return ""
}

// runtimeOf returns the runtime of the handler, as CRI would ask containerd for it.
func runtimeOf(c doctor.Containerd) testRuntime {
	r := testRuntime{name: ourType}
	if c.CRI != nil {
		if handler, ok := c.CRI.Runtimes[handlerName]; ok {
			r = testRuntime{handler.Type, handler.Path}
		}
	}
	return r
}

// judgeStages checks the order in which the stages were written down: postStart runs beside the process. handlers is set if the
// handlers write too.
func judgeStages(stages []string, handlers bool) error {
	if !handlers {
		if !slices.Equal(stages, []string{stageStarted, stageStopped}) {
			return fmt.Errorf("the process did not run as it had to: %q", stages)
		}
		return nil
	}
	at := func(stage string) int { return slices.Index(stages, stage) }
	for _, stage := range append([]string{stageStarted, stageStopped}, testHandlers...) {
		if at(stage) < 0 {
			return fmt.Errorf("%s did not run: %q", stage, stages)
		}
	}
	for _, pair := range [][2]string{
		{"preStart", stageStarted}, {"preStart", "postStart"}, {"postStart", "preStop"}, {stageStarted, "preStop"}, {"preStop", stageStopped}, {stageStopped, "onExit"},
	} {
		if at(pair[0]) > at(pair[1]) {
			return fmt.Errorf("%s ran before %s: %q", pair[1], pair[0], stages)
		}
	}
	if len(stages) != len(testHandlers)+2 {
		return fmt.Errorf("a handler ran twice: %q", stages)
	}
	return nil
}

// SelfTestStage is what the container's process and its handlers do: they write down that they ran. ctx ends with SIGTERM.
func SelfTestStage(ctx context.Context, stage string) error {
	if stage != stageProcess {
		return writeStage(stage)
	}
	if err := writeStage(stageStarted); err != nil {
		return err
	}
	<-ctx.Done()
	return writeStage(stageStopped)
}

func writeStage(stage string) error {
	file, err := os.OpenFile(filepath.Join(testResults, testLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(stage + "\n")
	return errors.Join(err, file.Close())
}
