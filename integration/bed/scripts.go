package bed

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/kernelversion"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	_ "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// ReportHere is tell in the container's working directory, which outlives it.
var ReportHere = strings.ReplaceAll(Report, "/told", "told")

// A handler that tells the test that it has begun, and waits for it to go on. Like all that is steered, it
// does so in its working directory.
const WaitForGo = `touch begun; while [ ! -e go ]; do sleep 0.02; done; `

// A handler that waits until the container says that it is ready.
const WaitForReady = `while [ ! -e ready ]; do sleep 0.02; done; `

// Shell is a handler, in YAML, that runs a shell script.
func Shell(script string) string {
	return fmt.Sprintf("exec: {command: [/bin/sh, -c, %q]}", script)
}

// Forever is a command that says when it gets SIGTERM, and goes on. Once ready, it forks no more.
var Forever = []string{"/bin/sh", "-c", `trap 'echo TERM >> signals' TERM; trap 'echo HUP >> signals' HUP; trap 'echo USR1 >> signals' USR1; sleep 1000 & touch ready; while :; do wait; done`}

// Obedient is one that exits with 7 when it gets SIGTERM, and forks no more either.
var Obedient = []string{"/bin/sh", "-c", `trap 'echo TERM >> signals; exit 7' TERM; sleep 1000 & touch ready; while :; do wait; done`}

// ServerPort is that of the server in a container with a network of its own.
const ServerPort = 8080

// WithRetry until the server listens.
func WithRetry(action string) string {
	return "{retryPeriodSeconds: 1, timeoutSeconds: 20, " + action + "}"
}

// Report is an onExit that says what it was told, a line for each time that it runs.
const Report = `echo "$LIFECYCLE_HANDLER $LIFECYCLE_RESULT code=$LIFECYCLE_EXIT_CODE signal=$LIFECYCLE_SIGNAL" >> /told; `

// MemoryHog is a command that the kernel kills for want of memory.
var MemoryHog = []string{"/bin/sh", "-c", "exec tail /dev/zero"}

// Reported the end of a process is what an onExit is told. Linux tells a signal from an exit with 128 and its number from 6.15 on; before,
// both are told in the same way (docs/use/handlers.md).
func Reported(t *testing.T, told, before string) string {
	t.Helper()
	knows, err := kernelversion.GreaterEqualThan(kernelversion.KernelVersion{Kernel: 6, Major: 15})
	if err != nil {
		t.Fatal(err)
	}
	if knows || before == "" {
		return told
	}
	return before
}

// What is told of a SIGKILL, for want of memory or not, by newer and older kernels.
const (
	ReportedOOM, ReportedOOMBefore         = "onExit oom-kill code= signal=SIGKILL", "onExit oom-kill code=137 signal=SIGKILL"
	ReportedSIGKILL, ReportedSIGKILLBefore = "onExit signal code= signal=SIGKILL", "onExit signal code=137 signal=SIGKILL"
)

// LogOutput is a handler whose output goes to the container's log.
func LogOutput(script string) string { return "{output: Log, " + Shell(script) + "}" }

// Talking is an entrypoint that says something, and something else when it is stopped.
var Talking = []string{"/bin/sh", "-c", `trap 'echo the container ends; exit 7' TERM; echo the container begins; touch ready; sleep 1000 & while :; do wait; done`}

// ShortTimeout is a time limit that lets a handler begin, and be paused, before it is over.
var ShortTimeout = fmt.Sprintf("timeoutSeconds: %.0f, ", harness.Patience(5*time.Second).Seconds())
