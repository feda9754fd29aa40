package main

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// Colours of ECMA-48.
const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

// colourOf marks runs that are in progress or have failed.
func colourOf(run *lifecyclev1.HandlerRun) string {
	switch run.Result {
	case "":
		return yellow
	case "Failed", "TimedOut":
		return red
	}
	return ""
}

// writeLines writes each line in its colour if out shows colours. All other escape
// sequences in the lines are made inert.
func writeLines(out io.Writer, text string, colours []string) error {
	text = string(inert([]byte(text)))
	if shown, ok := out.(terminal); ok {
		out = shown.out
	}
	if !colourful(out) {
		_, err := io.WriteString(out, text)
		return err
	}
	var painted strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if i < len(colours) && colours[i] != "" {
			line = colours[i] + line + plain
		}
		painted.WriteString(line + "\n")
	}
	_, err := io.WriteString(out, painted.String())
	return err
}

// colourful reports whether out is a terminal that shows colours and its user wants them
// (https://no-color.org).
func colourful(out io.Writer) bool {
	return isTerminal(out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
