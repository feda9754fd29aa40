package task

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// docs/spec.md#operator-limits: Create refuses what lifecyclectl refuses, in the same words, and leaves nothing.
func TestOperatorLimitsAtCreate(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		limits := bed.WithOptions(b, "MaxTimeout = \"20s\"\nMaxGracePeriod = \"25s\"\nAllowedHandlers = [\"exec\", \"sleep\"]")
		flags := []string{"--max-timeout=20s", "--max-grace-period=25s", "--allowed-handlers=exec,sleep"}
		for _, test := range []struct{ key, value, says string }{
			{bed.KeyPreStop, "{timeoutSeconds: 21, " + bed.Shell("true") + "}", "preStop.timeoutSeconds is 21; the operator's limit MaxTimeout is 20"},
			{bed.KeyPostStart, "sleep: {seconds: 21}", "postStart.sleep.seconds is 21; the operator's limit MaxTimeout is 20"},
			{bed.KeyPreStart, "{retryPeriodSeconds: 21, " + bed.Shell("true") + "}", "preStart.retryPeriodSeconds is 21; the operator's limit MaxTimeout is 20"},
			{keyOnExit, "tcpSocket: {port: 80}", "onExit is of type tcpSocket; the operator's limit AllowedHandlers is exec, sleep"},
			{bed.KeyLifecycle, "{preStop: {sleep: {seconds: 1}}, terminationGracePeriodSeconds: 26}", "terminationGracePeriodSeconds is 26; the operator's limit MaxGracePeriod is 25"},
		} {
			message := fmt.Sprintf("annotation %q: %s", test.key, test.says)
			c := b.NewContainer(bed.Annotations{test.key: test.value}, bed.Obedient, limits)
			_, err := c.Create(b.Context())
			if !errdefs.IsInvalidArgument(err) {
				b.Errorf("%s: %v, want InvalidArgument", test.value, err)
			}
			b.WantError(err, message)
			if _, err := c.State(b.Context()); !errdefs.IsNotFound(err) {
				b.Errorf("there is a task: %v", err)
			}
			file := filepath.Join(b.TempDir(), "annotations.yaml")
			if err := os.WriteFile(file, fmt.Appendf(nil, "%s: %q\n", test.key, test.value), 0o600); err != nil {
				b.Fatal(err)
			}
			if _, said, err := b.Ctl(append([]string{"validate", "-f", file}, flags...)...); err == nil || !strings.Contains(said, message) {
				b.Errorf("lifecyclectl validate says: %s", said)
			}
		}
		// Containers without handlers are not concerned.
		if _, _, err := b.NewContainer(nil, bed.Obedient, limits).Run(b.Context()); err != nil {
			b.Error(err)
		}
	})
}

// docs/spec.md#operator-limits-unset: no handler runs longer, and the signal is sent in time.
func TestOperatorLimitsOfWhatIsNotSet(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		timeout := bed.WithOptions(b, `MaxTimeout = "1s"`)
		for key, handler := range map[string]string{bed.KeyPostStart: "postStart", bed.KeyPreStart: "preStart"} {
			_, result := b.StartLater(bed.Annotations{key: "{retryPeriodSeconds: 1, " + bed.Shell("sleep 1000") + "}"}, bed.Obedient, timeout)
			b.WantError(b.Await(result).Err, handler+" handler failed: timed out after 1s")
		}
		// The longest sleep that is allowed is not timed out.
		b.Start(bed.Annotations{bed.KeyPostStart: "sleep: {seconds: 1}"}, bed.Obedient, timeout)

		stopped := func(key string, limit string, owner, result string) {
			b.Helper()
			c := b.Start(bed.Annotations{key: bed.Shell("sleep 1000")}, bed.Obedient, bed.WithOptions(b, limit))
			c.WaitFor("ready")
			c.Signal(syscall.SIGTERM)
			c.WantExit(7)
			b.WantCtl([]string{`"` + owner + `"`, result}, "status", c.ID, "-o", "json")
			c.DeleteTask()
		}
		stopped(bed.KeyPreStop, `MaxTimeout = "1s"`, "MaxTimeout", "TimedOut")
		stopped(bed.KeyPreStop, `MaxGracePeriod = "2s"`, "MaxGracePeriod", "Aborted")
		stopped(keyOnExit, `MaxTimeout = "1s"`, "MaxTimeout", "TimedOut")
	})
}
