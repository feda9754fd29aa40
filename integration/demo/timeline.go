package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	green, red, bold, dim, plain = "\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"

	// margin is the width of the column of elapsed times, durationAt that up to a step's duration.
	margin     = 9
	durationAt = 96
)

// timeline writes the demo's story: elapsed time on the left, a step's own duration on the right.
type timeline struct {
	w      io.Writer
	began  time.Time
	colour bool
}

func newTimeline(f *os.File) *timeline {
	return &timeline{
		w:      f,
		began:  time.Now(),
		colour: term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
}

func (t *timeline) paint(style, text string) string {
	if !t.colour {
		return text
	}
	return style + text + plain
}

func (t *timeline) title(text string) { fmt.Fprintln(t.w, t.paint(bold, text)) }

func (t *timeline) chapter(text string) { fmt.Fprintf(t.w, "\n%s\n", t.paint(bold, text)) }

// step writes the line of a finished step, and below it why it failed.
func (t *timeline) step(title, detail string, took time.Duration, err error) {
	mark := t.paint(green, "✓")
	if err != nil {
		mark, detail = t.paint(red, "✗"), ""
	}
	if detail != "" {
		title += ": " + detail
	}
	pad := max(1, durationAt-margin-2-utf8.RuneCountInString(title))
	fmt.Fprintf(t.w, "%s%s %s%s%s\n", t.now(), mark, title, strings.Repeat(" ", pad), t.paint(dim, seconds(took)))
	if err != nil {
		t.block("  ", err.Error(), red)
	}
}

// progress says what a slow step is doing.
func (t *timeline) progress(what string) {
	fmt.Fprintf(t.w, "%s%s\n", t.now(), t.paint(dim, "… "+what))
}

func (t *timeline) command(line string) {
	first, rest, more := strings.Cut(line, "\n")
	fmt.Fprintf(t.w, "%s%s\n", t.now(), t.paint(bold, "$ "+first))
	if more {
		t.block("  ", rest, bold)
	}
}

func (t *timeline) output(text string) { t.block("| ", text, dim) }

// block writes lines without a time of their own.
func (t *timeline) block(prefix, text, style string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n ")) {
		line = strings.TrimRight(line, "\n ")
		fmt.Fprintf(t.w, "%*s%s\n", margin, "", t.paint(style, prefix+line))
	}
}

func (t *timeline) verdict(good bool, text string) {
	style, mark := green, "✓"
	if !good {
		style, mark = red, "✗"
	}
	fmt.Fprintf(t.w, "\n%s%s\n", t.now(), t.paint(style, mark+" "+text))
}

// now is the left column.
func (t *timeline) now() string { return t.at(time.Now()) }

func (t *timeline) at(when time.Time) string {
	return fmt.Sprintf("%*s  ", margin-2, fmt.Sprintf("%.2fs", when.Sub(t.began).Seconds()))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }
