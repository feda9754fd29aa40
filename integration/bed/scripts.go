package bed

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/kernelversion"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// WaitForGo is the start of a handler's script: it makes the file begun in its working directory, and waits for the file go.
const WaitForGo = `touch begun; while [ ! -e go ]; do sleep 0.02; done; `

// WaitForReady is the start of a handler's script that waits until the container has made the file ready.
const WaitForReady = `while [ ! -e ready ]; do sleep 0.02; done; `

// Shell is a handler, in YAML, that runs a shell script.
func Shell(script string) string {
	return fmt.Sprintf("exec: {command: [/bin/sh, -c, %q]}", script)
}

// Forever is a command that notes SIGTERM, SIGHUP and SIGUSR1 in the file signals, and keeps running. Once ready, it forks no more.
var Forever = []string{"/bin/sh", "-c", `trap 'echo TERM >> signals' TERM; trap 'echo HUP >> signals' HUP; trap 'echo USR1 >> signals' USR1; sleep 1000 & touch ready; while :; do wait; done`}

// Obedient is a command that exits with 7 on SIGTERM. Once ready, it forks no more.
var Obedient = []string{"/bin/sh", "-c", `trap 'echo TERM >> signals; exit 7' TERM; sleep 1000 & touch ready; while :; do wait; done`}

// ServerPort is the port of the server in a container that has its own network.
const ServerPort = 8080

// WithRetry is a handler that is tried again until the server listens.
func WithRetry(action string) string {
	return "{retryPeriodSeconds: 1, timeoutSeconds: 20, " + action + "}"
}

// Report is an onExit that writes what its environment says of the end, a line for each run.
const Report = `echo "$LIFECYCLE_HANDLER $LIFECYCLE_RESULT code=$LIFECYCLE_EXIT_CODE signal=$LIFECYCLE_SIGNAL" >> /told; `

// ReportHere is Report into the working directory, which outlives the container.
var ReportHere = strings.ReplaceAll(Report, "/told", "told")

// MemoryHog is a command that the OOM killer ends.
var MemoryHog = []string{"/bin/sh", "-c", "exec tail /dev/zero"}

// Reported returns what Report writes under this kernel. From Linux 6.15 on, a death by a signal differs from an exit with 128 plus
// the signal's number; older kernels report both in the same way (docs/use/handlers.md). before is empty if there is no difference.
func Reported(t *testing.T, now, before string) string {
	t.Helper()
	knows, err := kernelversion.GreaterEqualThan(kernelversion.KernelVersion{Kernel: 6, Major: 15})
	if err != nil {
		t.Fatal(err)
	}
	if knows || before == "" {
		return now
	}
	return before
}

// What Report writes of a SIGKILL, from the OOM killer or another sender, under kernels from 6.15 on and before.
const (
	ReportedOOM           = "onExit oom-kill code= signal=SIGKILL"
	ReportedOOMBefore     = "onExit oom-kill code=137 signal=SIGKILL"
	ReportedSIGKILL       = "onExit signal code= signal=SIGKILL"
	ReportedSIGKILLBefore = "onExit signal code=137 signal=SIGKILL"
)

// LogOutput is a handler whose output goes to the container's log.
func LogOutput(script string) string { return "{output: Log, " + Shell(script) + "}" }

// Talking is a command that prints a line when it begins, and another one when SIGTERM ends it.
var Talking = []string{"/bin/sh", "-c", `trap 'echo the container ends; exit 7' TERM; echo the container begins; touch ready; sleep 1000 & while :; do wait; done`}

// ShortTimeout is a timeout that is long enough for a handler to begin and be paused.
var ShortTimeout = fmt.Sprintf("timeoutSeconds: %.0f, ", harness.Patience(5*time.Second).Seconds())
