// Command mutants changes decisions of the product one at a time, and reports which changes no unit test notices.
//
//	mutants [-v] [-quick] [-match REGEXP] [PACKAGE or FILE…]
//
// A mutant is the program with one small change: a condition that is always true, a statement that is left out, a field that
// is not set. A unit test that fails on it kills it. A mutant that survives is a decision that no unit test holds; each one
// is explained in survivors.txt, or the command fails. It also fails if an explanation is out of date: the mutant is killed
// by now, or its line has gone.
//
// All mutants of a package are compiled into one test binary, and a number in the binary says which of them is on: compiling and
// linking each of them by itself takes several seconds, running the tests that reach it takes a fraction of one. Nothing is
// changed in the tree (go build -overlay).
//
// The libraries that exist do not do this: gremlins 0.6 knows only operators, so it cannot leave a statement out, and takes the
// conditions of a switch for not covered; it copies the module and compiles it for each mutant.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// target is a package whose mutants are made.
type target struct {
	dir string
	// aim is how many of 100 mutants must be killed, by unit or integration tests, or be equivalent.
	aim float64
}

var targets = []target{
	{"shim/lifecycle", 95},
	{"oci", 95},
	{"oci/bounded", 95},
	{"shim", 85},
	{"shim/internal/bounds", 85},
	{"shim/internal/launch", 85},
	{"shim/internal/options", 85},
	{"shim/internal/runner", 85},
	{"shim/internal/tap", 85},
	{"hookexec", 85},
	{"internal/shorten", 85},
	{"hookexec/host", 85},
}

const (
	buildTags     = "seccomp,netgo,osusergo,grpcnotrace"
	survivorsFile = "tools/mutants/survivors.txt"
)

// options of the command.
type options struct {
	match string
	// quick leaves out the long tests, and those that do not reach a mutant.
	quick, verbose bool
}

// errFound is what main exits with after everything has been printed.
var errFound = errors.New("see above")

func main() {
	root := flag.String("root", "..", "the top of the repository")
	verbose := flag.Bool("v", false, "print every mutant and its result as soon as it is known")
	match := flag.String("match", "", "make only mutants whose name this regular expression matches")
	quick := flag.Bool("quick", false, "run only short tests, and only those that reach a mutant")
	flag.Parse()
	// Ended by a signal, it ends the tests that it runs.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *root, flag.Args(), options{*match, *quick, *verbose}); err != nil {
		if !errors.Is(err, errFound) {
			fmt.Fprintln(os.Stderr, "mutants:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, root string, args []string, options options) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	chosen, err := choose(args)
	if err != nil {
		return err
	}
	explained, err := readExplanations(filepath.Join(root, survivorsFile), root)
	if err != nil {
		return err
	}
	bad := false
	for _, c := range chosen {
		began := time.Now()
		result, err := examine(ctx, root, c, explained[c.dir], options)
		if err != nil {
			return fmt.Errorf("%s: %w", c.dir, err)
		}
		if !result.print(out, time.Since(began)) {
			bad = true
		}
	}
	if bad {
		return errFound
	}
	return nil
}

// choice is a target, and the only file of it that is to be changed, empty for all.
type choice struct {
	target
	file string
}

func choose(args []string) ([]choice, error) {
	var chosen []choice
	for _, arg := range args {
		dir, file := strings.TrimPrefix(filepath.Clean(arg), "./"), ""
		if strings.HasSuffix(dir, ".go") {
			dir, file = filepath.Split(dir)
			dir = filepath.Clean(dir)
		}
		found := false
		for _, t := range targets {
			if t.dir == dir {
				chosen, found = append(chosen, choice{t, file}), true
			}
		}
		if !found {
			return nil, fmt.Errorf("%s is not one of the packages that have mutants: add it to targets in tools/mutants/main.go", arg)
		}
	}
	if len(args) == 0 {
		for _, t := range targets {
			chosen = append(chosen, choice{t, ""})
		}
	}
	return chosen, nil
}
