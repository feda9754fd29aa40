package bounded

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// ellipsis ends a text that was cut.
const ellipsis = "…"

// Cut returns the text if it has at most n bytes, and otherwise its beginning and an
// ellipsis, n bytes together at most. It never cuts within a character. It returns the
// ellipsis alone if n is smaller than that.
func Cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	end := max(n-len(ellipsis), 0)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}

// Quote is strconv.Quote of the text's beginning: the result has at most n bytes, and at
// least an ellipsis in quotes. Foreign text goes into an error through Quote only.
func Quote(text string, n int) string {
	if len(text) <= n {
		if quoted := strconv.Quote(text); len(quoted) <= n {
			return quoted
		}
	}
	most := n - len(`"`+ellipsis+`"`)
	quoted := []byte{'"'}
	for len(text) > 0 {
		_, width := utf8.DecodeRuneInString(text)
		char := strconv.Quote(text[:width])
		if char = char[1 : len(char)-1]; len(quoted)-1+len(char) > most {
			break
		}
		quoted = append(quoted, char...)
		text = text[width:]
	}
	return string(quoted) + ellipsis + `"`
}

// OneLine makes one line of a text, with single spaces between its words.
func OneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
