package bed

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
)

// WantEnd waits for the line of the shim's log that says how the handler ended.
func (c *Container) WantEnd(handler string, parts ...string) {
	c.B.Helper()
	var found string
	c.B.Poll("the end of "+handler+" of "+c.ID+" in the log", func() bool {
		for line := range strings.Lines(c.B.Daemon.Log()[c.B.LogStart:]) {
			if strings.Contains(line, `msg="handler ended"`) && strings.Contains(line, "namespace="+c.B.Client.Namespace+" ") &&
				strings.Contains(line, "handler="+handler+" ") && strings.Contains(line, "id="+c.ID+" ") {
				found = line
			}
		}
		return found != ""
	})
	for _, part := range parts {
		if !strings.Contains(found, part) {
			c.B.Errorf("%s does not end with %q: %s", handler, part, found)
		}
	}
}

// Ctl runs lifecyclectl against the test's daemon.
func (b *Bench) Ctl(args ...string) (stdout, stderr string, err error) {
	b.Helper()
	command := b.CtlCommand(b.Context(), args...)
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	err = command.Run()
	return out.String(), errOut.String(), err
}

// CtlCommand is lifecyclectl with the test's daemon and namespace.
func (b *Bench) CtlCommand(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--address", b.Daemon.Address, "--namespace", b.Client.Namespace}, args...)
	return b.Daemon.Command(ctx, filepath.Join(BinDir(b), "lifecyclectl"), args...)
}

// WantCtl runs lifecyclectl, which must succeed and print these parts. It returns the output.
func (b *Bench) WantCtl(parts []string, args ...string) string {
	b.Helper()
	out, errOut, err := b.Ctl(args...)
	if err != nil || errOut != "" {
		b.Fatalf("lifecyclectl %s: %v\n%s", strings.Join(args, " "), err, errOut)
	}
	for _, part := range parts {
		if !strings.Contains(out, part) {
			b.Errorf("lifecyclectl %s does not say %q:\n%s", strings.Join(args, " "), part, out)
		}
	}
	return out
}

// Run is a handler's run, as the status shows it.
type Run struct {
	Handler, Result, Output, LogError string
	LostLines                         int64 `json:",string"`
}

// Runs returns what `lifecyclectl status` shows of the container.
func (c *Container) Runs() []Run {
	c.B.Helper()
	var shown struct {
		Containers []struct{ Runs []Run }
	}
	if err := json.Unmarshal([]byte(c.B.WantCtl(nil, "status", c.ID, "-o", "json")), &shown); err != nil {
		c.B.Fatal(err)
	}
	if len(shown.Containers) != 1 {
		c.B.Fatalf("got %+v", shown)
	}
	return shown.Containers[0].Runs
}

// Logs reports whether a line of the shim's log has all these words.
func (b *Bench) Logs(words []string) bool {
	for line := range strings.Lines(b.Daemon.Log()[b.LogStart:]) {
		missing := false
		for _, word := range words {
			missing = missing || !strings.Contains(line, word)
		}
		if !missing {
			return true
		}
	}
	return false
}
