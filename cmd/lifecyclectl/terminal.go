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

// terminal is a stream for text that comes from others: handlers, shims, manifests.
// Characters that could move a terminal's cursor or change the direction of text are written
// as escapes such as \u001b, which mean the same in JSON.
type terminal struct{ out io.Writer }

// Write must be passed whole characters.
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
	for _, r := range string(text) { // invalid UTF-8 becomes utf8.RuneError
		if active(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteRune(r)
		}
	}
	return out.Bytes()
}

// active reports whether a terminal would obey a character. All such characters are below
// U+10000.
func active(r rune) bool {
	return r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// outOf is the stream for text that does not come from the command's user.
func outOf(cmd *cobra.Command) io.Writer { return terminal{cmd.OutOrStdout()} }

// oneLine prevents a text from imitating another line or another column of a table
// (text/tabwriter ends cells at \v and \f too).
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("\n\t\v\f\r", r) {
			return ' '
		}
		return r
	}, text)
}
