package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// memory that a mutant's tests may have, in bytes: one that never ends may want all there is.
const memory = 4 << 30

// sandbox runs test binaries in separate process namespaces: a mutant may signal any process, and leave processes behind.
type sandbox struct {
	ctx context.Context
	dir string // the package's
}

// sh is the namespace's init, which reaps what the tests leave behind. Without root, the namespace needs a user namespace too.
func (s *sandbox) command(ctx context.Context, binary string, args []string) *exec.Cmd {
	words := []string{"--pid", "--fork", "--mount-proc", "--kill-child"}
	if os.Geteuid() != 0 {
		words = append([]string{"--user", "--map-current-user"}, words...)
	}
	words = append(words, "--", "sh", "-c", `prlimit --as=`+fmt.Sprint(memory)+` -- "$@"; exit $?`, "sh", binary)
	cmd := exec.CommandContext(ctx, "unshare", append(words, args...)...)
	cmd.Dir = s.dir
	return cmd
}

// passes runs the tests that match, and reports whether they all pass in time.
func (s *sandbox) passes(binary, match string, short bool, limit time.Duration, more ...string) (bool, string) {
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	args := []string{"-test.failfast", "-test.paniconexit0", "-test.timeout=" + (limit - time.Second).String(), "-test.run=" + match}
	args = append(args, more...)
	if short {
		args = append(args, "-test.short")
	}
	cmd := s.command(ctx, binary, args)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	return err == nil, output.String()
}

// binaryCopy is a test binary whose mutant can be chosen.
type binaryCopy struct {
	path     string
	original []byte
	places   []int64
}

func newCopy(original []byte, path string) (*binaryCopy, error) {
	c := &binaryCopy{path: path, original: original}
	for from := 0; ; {
		i := bytes.Index(original[from:], []byte(placeholder(0, "")))
		if i < 0 {
			break
		}
		c.places = append(c.places, int64(from+i))
		from += i + 1
	}
	if len(c.places) == 0 {
		return nil, fmt.Errorf("%s has no place for the number of a mutant", path)
	}
	return c, os.WriteFile(path, original, 0o755)
}

// choose turns one mutant on, 0 for none, and notes those that are reached in the file trace, if one is named.
func (c *binaryCopy) choose(number int, trace string) error {
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err != nil { // it is still running somewhere
		if err := os.Remove(c.path); err != nil {
			return err
		}
		if err := os.WriteFile(c.path, c.original, 0o755); err != nil {
			return err
		}
		if f, err = os.OpenFile(c.path, os.O_WRONLY, 0); err != nil {
			return err
		}
	}
	for _, at := range c.places {
		if _, err := f.WriteAt([]byte(placeholder(number, trace)), at); err != nil {
			return err
		}
	}
	return f.Close()
}
