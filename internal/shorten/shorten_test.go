package shorten

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMiddle(t *testing.T) {
	for name, test := range map[string]struct{ text, begin, end string }{
		"one byte too long":       {"what failed: " + strings.Repeat("x", MaxError-26) + ": the cause ..", "what failed", ": the cause .."},
		"5 MB":                    {"what failed: " + strings.Repeat("x", 5<<20) + ": the cause", "what failed: xxx", "xxx: the cause"},
		"bytes that are no UTF-8": {"what failed: " + strings.Repeat("\xff", 1<<20) + ": the cause", "what failed: \uFFFD", "\uFFFD: the cause"},
		"short, but longer when it is UTF-8": {
			"what failed: " + strings.Repeat("\xffx", MaxError/2-20) + ": the cause", "what failed: \uFFFDx", "\uFFFDx: the cause",
		},
		"runes of four bytes": {"what failed: " + strings.Repeat("🙂", 2000) + ": the cause", "what failed: 🙂", "🙂: the cause"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Error(errors.New(test.text))
			if len(got) > MaxError || len(got) < MaxError-2*maxMark || !utf8.ValidString(got) {
				t.Errorf("%d bytes, valid: %t", len(got), utf8.ValidString(got))
			}
			if !strings.HasPrefix(got, test.begin) || !strings.HasSuffix(got, test.end) || !strings.Contains(got, " bytes cut] …") {
				t.Errorf("got %q … %q", got[:60], got[len(got)-60:])
			}
		})
	}
}

func TestShortTextsStayAsTheyAre(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "",
		"a cause":                      "a cause",
		strings.Repeat("é", 2048):      strings.Repeat("é", 2048),
		"bad \xff byte":                "bad \uFFFD byte",
		"a rune that is cut \xf0\x9f ": "a rune that is cut \uFFFD ",
	} {
		if got := Middle(text, MaxError); got != want {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// FuzzMiddle: for any text, the result is valid UTF-8 within the limit.
func FuzzMiddle(f *testing.F) {
	f.Add("text", 64)
	f.Add(strings.Repeat("\xe2\x82", 100), 80)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = 2*maxMark + int(uint16(limit))
		got := Middle(text, limit)
		if len(got) > limit || !utf8.ValidString(got) {
			t.Errorf("%d bytes of %d, valid: %t", len(got), limit, utf8.ValidString(got))
		}
		if len(text) <= limit && utf8.ValidString(text) && got != text {
			t.Errorf("%q became %q", text, got)
		}
	})
}

// TestMiddleIsNotCutTooMuch: the kept text has exactly the size that the longest mark leaves room for, a quarter of it before
// the mark. An invalid byte counts as three bytes.
func TestMiddleIsNotCutTooMuch(t *testing.T) {
	const mark = 41 // the longest
	for text, want := range map[string]string{
		strings.Repeat("x", 642):     strings.Repeat("x", 150) + " … [42 bytes cut] … " + strings.Repeat("x", 450),
		strings.Repeat("\xffx", 200): strings.Repeat("\ufffdx", 37) + " … [100 bytes cut] … " + strings.Repeat("\ufffdx", 113),
	} {
		if got := Middle(text, 600+mark); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got, want := Middle(strings.Repeat("\xffx", 150), 600), strings.Repeat("\ufffdx", 150); got != want {
		t.Errorf("a text that just fits is %q", got)
	}
	if got := Error(errors.New(strings.Repeat("x", 1<<20))); len(got) > 4096 || len(got) < 4000 {
		t.Errorf("an error has %d bytes", len(got))
	}
}

func TestEnd(t *testing.T) {
	for _, test := range []struct {
		text string
		n    int
		want string
	}{
		{"", 0, ""},
		{"abcdef", 6, "abcdef"},
		{"abcdefg", 6, "abc…"},
		{"aäääb", 6, "aä…"},
		{"äääb", 6, "ä…"},
		{"😀😀", 6, "…"},
		{"😀😀", 7, "😀…"},
		{"abcdef", 3, "…"},
		{"abcdef", 1, "…"},
		{"\x80\x80\x80\x80\x80", 4, "…"},
	} {
		if got := End(test.text, test.n); got != test.want {
			t.Errorf("End(%q, %d) is %q, want %q", test.text, test.n, got, test.want)
		}
	}
}

func TestQuote(t *testing.T) {
	for _, test := range []struct {
		text string
		n    int
		want string
	}{
		{"", 5, `""`},
		{"abc", 5, `"abc"`},
		{"abcd", 6, `"abcd"`},
		{"abcd", 5, `"…"`},
		{"abcde", 6, `"a…"`},
		{"abcdef", 8, `"abcdef"`},
		{"abcdefg", 8, `"abc…"`},
		{"\x00\x00\x00", 9, `"\x00…"`},
		{"ää", 6, `"ää"`},
		{"äää", 7, `"ä…"`},
		{"\xff\xff\xff", 13, `"\xff\xff…"`},
		{"\xff\xff", 10, `"\xff\xff"`},
		{"\n\"\\", 8, `"\n\"\\"`},
	} {
		if got := Quote(test.text, test.n); got != test.want {
			t.Errorf("Quote(%q, %d) is %s, want %s", test.text, test.n, got, test.want)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got := OneLine(" a\n\tb  c\r\n"); got != "a b c" {
		t.Errorf("got %q", got)
	}
}
