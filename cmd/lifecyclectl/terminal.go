package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// terminal is a stream for text that others have a part in: handlers, shims,
// manifests. What could move a terminal's cursor, or turn the direction of its text, is
// written as \u001b is, which means the same in JSON.
type terminal struct{ out io.Writer }

// Write takes whole characters.
func (t terminal) Write(p []byte) (int, error) {
	if _, err := t.out.Write(inert(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func inert(text []byte) []byte {
	if !bytes.ContainsFunc(text, active) && utf8.Valid(text) {
		return text
	}
	var out bytes.Buffer
	for _, r := range string(text) { // what is no UTF-8 is utf8.RuneError
		if active(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteRune(r)
		}
	}
	return out.Bytes()
}

// active characters are all below U+10000.
func active(r rune) bool {
	return r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// outOf is where a command writes what is not its user's own.
func outOf(cmd *cobra.Command) io.Writer { return terminal{cmd.OutOrStdout()} }

// oneLine keeps a text from looking like another line, or another column of a table
// (text/tabwriter takes \v and \f for cells too).
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("\n\t\v\f\r", r) {
			return ' '
		}
		return r
	}, text)
}
