package attack

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// What crosses an RPC has a bound (docs/spec.md#bounds).

// mostError is the size of the longest error that the shim returns.
const mostError = 4 << 10

func wantBounded(b *bed.Bench, err error) {
	b.Helper()
	if err == nil {
		b.Fatal("no error")
	}
	// containerd and its client put their own words before it.
	if text := err.Error(); len(text) > mostError+200 || !utf8.ValidString(text) {
		b.Errorf("the error has %d bytes, valid UTF-8: %t", len(text), utf8.ValidString(text))
	}
}

// FAULTS A6: a command that cannot be started is reported as such, for any size of libcontainer's error, and
// however late libcontainer finds out.
func TestCannotStartWhateverTheErrorsSize(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		for name, test := range map[string]struct{ command, says string }{
			"does not fit into libcontainer's socket": {strings.Repeat("<", 40_000), "<<<"},
			"does not fit into the shim's":            {strings.Repeat("<", 30_000), "<<<"},
			"longer than a pipe holds":                {strings.Repeat("é<", 20_000), "é<"},
			"not a program":                           {"/nonsense", "exec format error"},
			"a script without its interpreter":        {"/script", "no such file or directory"},
		} {
			b.Logf("a command that is %s", name)
			c := b.NewContainer(bed.Annotations{bed.KeyPostStart: fmt.Sprintf("exec: {command: [%q]}", test.command)}, bed.Obedient)
			for file, text := range map[string]string{"nonsense": "\x00\x01", "script": "#!/does/not/exist\n"} {
				if err := os.WriteFile(c.Path(file), []byte(text), 0o755); err != nil {
					b.Fatal(err)
				}
			}
			_, _, err := c.Run(b.Context())
			b.WantError(err, "postStart handler failed: cannot start: ", test.says)
			wantBounded(b, err)
		}
	})
}

// FAULTS A5: a handler that prints 1 MiB of NUL bytes, which can only be shown as three bytes each, fails the start in a
// bounded error, and status and events of a pod of such containers arrive.
func TestFloodOfOutputIsCut(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		script := "head -c 1048576 /dev/zero; echo the end; exit 3"
		limitOfOutput := bed.WithOptions(b, "OutputLimit = 1048576")
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell(script)}, bed.Obedient, limitOfOutput)
		_, _, err := c.Run(b.Context())
		b.WantError(err, "postStart handler failed: exit status 3", "bytes cut]", "the end")
		wantBounded(b, err)
		for range 3 {
			b.Start(bed.Annotations{bed.KeyPostStart: "{failurePolicy: Ignore, " + bed.Shell(script) + "}"}, bed.Forever, limitOfOutput, func(config *harness.ContainerConfig) {
				config.Annotations[bed.KeyGroup] = "pod"
			})
		}
		shown, errOut, err := b.Ctl("status", "-o", "json")
		if err != nil || !strings.Contains(shown, `"result": "Failed"`) || !strings.Contains(errOut, "its answer shortened long ones") {
			b.Fatalf("lifecyclectl status: %v, %s", err, errOut)
		}
		if got := strings.Count(shown, `the end\n"`); got != 4 { // one of the container that failed
			b.Errorf("%d outputs are shown", got)
		}
		for line := range strings.Lines(b.Daemon.Log()[b.LogStart:]) {
			if len(line) > 64<<10 {
				b.Errorf("a line of the log has %d bytes: %.200s", len(line), line)
			}
		}
	})
}
