// Package bounded cuts texts that somebody else wrote, or made long, to a size
// that can be sent, logged and shown.
package bounded

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxError is the size, in bytes, of the longest error that leaves the shim or the
// handler host (docs/spec.md#bounds).
const MaxError = 4 << 10

// maxMark is the size of the longest mark that Text puts where it cuts.
const maxMark = len(" … [9223372036854775807 bytes cut] … ")

// Text returns text as valid UTF-8 of at most limit bytes. A longer text loses its
// middle: an error begins with what failed and ends with the cause, and containerd
// recognises some errors by their last words (errgrpc.ToNative). The tail is the
// longer part, because the output of a handler is at the end of its error.
//
// limit must have room for more than the mark, which takes up to 41 bytes.
func Text(text string, limit int) string {
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

// Error is Text for an error that leaves the process.
func Error(err error) string { return Text(err.Error(), MaxError) }

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
