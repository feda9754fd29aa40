// Package shorten cuts text that comes from outside to a size that can be sent, logged
// and shown.
package shorten

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxError is the size, in bytes, of the longest error that leaves the shim or the
// handler host (docs/spec.md#bounds).
const MaxError = 4 << 10

const (
	// ellipsis ends a text whose end was cut.
	ellipsis = "…"
	// maxMark is the size of the longest mark that Middle puts where it cuts.
	maxMark = len(" … [9223372036854775807 bytes cut] … ")
)

// Error is Middle for an error that leaves the process.
func Error(err error) string { return Middle(err.Error(), MaxError) }

// Middle returns text as valid UTF-8 of at most limit bytes. A longer text loses its
// middle: an error begins with what failed and ends with the cause, and containerd
// recognises some errors by their last words (errgrpc.ToNative). The tail is the
// longer part, because the output of a handler is at the end of its error.
//
// limit must have room for more than the mark, which takes up to 41 bytes.
func Middle(text string, limit int) string {
	if len(text) <= limit {
		if valid := strings.ToValidUTF8(text, string(utf8.RuneError)); len(valid) <= limit {
			return valid
		}
	}
	room := limit - maxMark
	head, begin := first(text, room/4)
	tail, end := last(text[begin:], room-len(head))
	return fmt.Sprintf("%s … [%d bytes cut] … %s", head, end, tail)
}

// End returns the text if it has at most limit bytes, and otherwise its beginning, as
// valid UTF-8, and an ellipsis, together at most limit bytes. It returns the ellipsis
// alone if limit is smaller than that.
func End(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	head, _ := first(text, limit-len(ellipsis))
	return head + ellipsis
}

// Quote is strconv.Quote of the text's beginning: the result has at most limit bytes, and
// at least an ellipsis in quotes.
func Quote(text string, limit int) string {
	if len(text) <= limit {
		if quoted := strconv.Quote(text); len(quoted) <= limit {
			return quoted
		}
	}
	room := limit - len(`"`+ellipsis+`"`)
	quoted := []byte{'"'}
	for len(text) > 0 {
		_, width := utf8.DecodeRuneInString(text)
		char := strconv.Quote(text[:width])
		if char = char[1 : len(char)-1]; len(quoted)-1+len(char) > room {
			break
		}
		quoted = append(quoted, char...)
		text = text[width:]
	}
	return string(quoted) + ellipsis + `"`
}

// OneLine makes one line of a text, with single spaces between its words.
func OneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// first returns as much of the beginning of text as fits into limit as valid UTF-8,
// and how many bytes of text that is.
func first(text string, limit int) (string, int) {
	var valid strings.Builder
	used := 0
	for used < len(text) {
		r, size := utf8.DecodeRuneInString(text[used:])
		if valid.Len()+utf8.RuneLen(r) > limit {
			break
		}
		valid.WriteRune(r)
		used += size
	}
	return valid.String(), used
}

// last returns as much of the end of text as fits into limit as valid UTF-8, and how
// many bytes come before that.
func last(text string, limit int) (string, int) {
	begin, length := len(text), 0
	for begin > 0 {
		r, size := utf8.DecodeLastRuneInString(text[:begin])
		if length += utf8.RuneLen(r); length > limit {
			break
		}
		begin -= size
	}
	return string([]rune(text[begin:])), begin
}
