package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// result is the writer for the machine's console. It passes everything on, and keeps what the tests of each package print, for
// test2json.
type result struct {
	out io.Writer
	// speaks is called when the machine writes its first byte.
	speaks func()

	line     []byte
	packages []*outcome // in the order in which they begin
	left     []string
	ended    bool
}

// outcome is what a package's test program prints, and the status with which it exits; empty while it runs.
type outcome struct {
	name, status string
	output       bytes.Buffer
}

func (r *result) Write(p []byte) (int, error) {
	if r.speaks != nil {
		r.speaks()
		r.speaks = nil
	}
	for _, b := range p {
		if b != '\n' {
			r.line = append(r.line, b)
			continue
		}
		r.note(strings.TrimRight(string(r.line), "\r"))
		r.line = r.line[:0]
	}
	shown := bytes.Map(func(c rune) rune {
		if c == '\r' || c == marker {
			return -1
		}
		return c
	}, p)
	if _, err := r.out.Write(shown); err != nil {
		return 0, err
	}
	return len(p), nil // fewer would end the copying
}

// marker is the byte by which test2json knows the lines of testing, under -test.v=test2json.
const marker = 0x16

// note a line: guest/run's words begin with "cgroup2: ", all others are of the package that runs.
func (r *result) note(line string) {
	rest, ok := strings.CutPrefix(line, "cgroup2: ")
	if !ok {
		if len(r.packages) > 0 && r.packages[len(r.packages)-1].status == "" {
			r.packages[len(r.packages)-1].output.WriteString(line + "\n")
		}
		return
	}
	switch what, value, _ := strings.Cut(rest, ": "); what {
	case "begin":
		r.packages = append(r.packages, &outcome{name: value})
	case "package":
		fields := strings.Fields(value) // the package, its status, its seconds
		for _, o := range r.packages {
			if len(fields) > 1 && o.name == fields[0] {
				o.status = fields[1]
			}
		}
	case "left":
		r.left = append(r.left, value)
	case "end":
		r.ended = true
	}
}

// err is nil if every package's program has exited with success, nothing is left and the machine has ended in order.
func (r *result) err() error {
	var wrong []string
	for _, pkg := range packages {
		i := slices.IndexFunc(r.packages, func(o *outcome) bool { return o.name == pkg && o.status != "" })
		switch {
		case i < 0:
			wrong = append(wrong, pkg+" did not finish")
		case r.packages[i].status != "0":
			wrong = append(wrong, pkg+" exited with status "+r.packages[i].status)
		}
	}
	for _, left := range r.left {
		wrong = append(wrong, "left behind: "+left)
	}
	if !r.ended {
		wrong = append(wrong, "the machine did not finish")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("cgroup v2:\n%s", strings.Join(wrong, "\n"))
	}
	return nil
}

// event is what is read of an event of test2json.
type event struct{ Action, Package, Test string }

// events converts what the tests printed to the events of test2json.
func (r *result) events(ctx context.Context) ([]byte, error) {
	var all bytes.Buffer
	for _, o := range r.packages {
		convert := command(ctx, "go", "tool", "test2json", "-p", o.name)
		convert.Stdin, convert.Stdout, convert.Stderr = &o.output, &all, os.Stderr
		if err := convert.Run(); err != nil {
			return nil, fmt.Errorf("test2json: %w", err)
		}
	}
	return all.Bytes(), nil
}

// report writes the events into the file, and lets gotestsum print what has failed. A whole run must have passed every test of points.
func (r *result) report(ctx context.Context, repository, file string, whole bool) error {
	events, err := r.events(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, events, 0o644); err != nil {
		return err
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	summary := command(ctx, "go", "-C", repository, "tool", "-modfile=tools/go.mod", "gotestsum", "--raw-command", "--format", "none", "--", "cat", file)
	summary.Stdout, summary.Stderr = os.Stdout, os.Stderr
	err = summary.Run()
	if whole {
		err = errors.Join(err, shown(events))
	}
	return err
}

// shown is nil if every test of points has passed.
func shown(events []byte) error {
	passed := map[string]bool{}
	for decoder := json.NewDecoder(bytes.NewReader(events)); ; {
		var e event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if e.Action == "pass" {
			passed[e.Test] = true
		}
	}
	var errs []error
	for _, p := range points {
		for _, test := range p.tests {
			if !passed[test] {
				errs = append(errs, fmt.Errorf("%s has not passed, which shows: %s", test, p.what))
			}
		}
	}
	return errors.Join(errs...)
}
