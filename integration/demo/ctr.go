package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ctrLimit bounds one ctr command, the held `ctr run` too.
const ctrLimit = time.Minute

// ctr runs containerd's own command-line tool, and shows each call as one would type it. Address and
// namespace are in the environment, so that what is shown is all there is.
type ctr struct {
	out  *timeline
	path string
	env  []string
}

func newCtr(out *timeline, binDir, address string) *ctr {
	return &ctr{out: out, path: filepath.Join(binDir, "ctr"), env: []string{
		"CONTAINERD_ADDRESS=" + address,
		"CONTAINERD_NAMESPACE=" + namespace,
	}}
}

// shown runs a command and shows it with what it printed.
func (c *ctr) shown(ctx context.Context, args ...string) (string, error) {
	c.out.command(c.line(args))
	out, err := c.quiet(ctx, args...)
	c.out.output(out)
	return out, err
}

// quiet runs a command. Its error carries what the command said.
func (c *ctr) quiet(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, ctrLimit, fmt.Errorf("no end after %v", ctrLimit))
	defer cancel()
	cmd := command(ctx, c.path, args...)
	cmd.Env = c.environ()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return stdout.String(), fmt.Errorf("ctr %s …: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (c *ctr) environ() []string {
	// Its reminder that cgroup v1 will go says nothing about us.
	return append(append(os.Environ(), c.env...), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=true")
}

// line is the command as one would type it; a long one is broken before its flags.
func (c *ctr) line(args []string) string {
	words, length := []string{"ctr"}, 0
	for _, a := range args {
		words = append(words, quote(a))
		length += len(a) + 1
	}
	if length < 90 {
		return strings.Join(words, " ")
	}
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case strings.HasPrefix(w, "--"):
			b.WriteString(" \\\n    ")
		default:
			b.WriteByte(' ')
		}
		b.WriteString(w)
	}
	return b.String()
}

// quote makes a word safe for a shell.
func quote(word string) string {
	plain := func(r rune) bool {
		return strings.ContainsRune("-_./:=,@%+", r) || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
