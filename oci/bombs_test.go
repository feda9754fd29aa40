package oci

import (
	"fmt"
	"strings"
	"testing"
)

// fill repeats a text until the value, with what is around it, has the maximum length.
func fill(before, unit, after string) string {
	return before + strings.Repeat(unit, (maxText-len(before)-len(after))/len(unit)) + after
}

// number is like fill, for units that differ.
func number(before string, unit func(i int) string, after string) string {
	var text strings.Builder
	text.WriteString(before)
	for i := 0; ; i++ {
		next := unit(i)
		if text.Len()+len(next)+len(after) > maxText {
			return text.String() + after
		}
		text.WriteString(next)
	}
}

const maxText = 64 << 10

// laughs is the billion laughs: each list holds the one before it nine times.
func laughs(levels int) string {
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < levels; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	return bomb
}

// bombs are values that are expensive for a reader without limits: the kinds of FAULTS A1
// and A2, other YAML bombs, and the values that are most expensive for our reader.
var bombs = map[string]string{
	// FAULTS A1: an error for each pair of equal keys.
	"A1 500 equal keys":           strings.Repeat("a:\n", 500),
	"A1 1000 equal keys":          strings.Repeat("a:\n", 1000),
	"A1 4000 equal keys":          strings.Repeat("a:\n", 4000),
	"A1 equal keys":               fill("", "a:\n", ""),
	"A1 equal keys in flow":       fill("{", "a,", "}"),
	"A1 equal keys in JSON":       fill(`{"b":1`, `,"a":1`, "}"),
	"A1 equal long keys":          strings.Repeat(strings.Repeat("k", 700)+":\n", 93),
	"A1 equal empty keys":         fill("", "?\n", ""),
	"A1 equal complex keys":       fill("", "? []\n", ""),
	"A1 equal merge keys":         fill("", "<<: {}\n", ""),
	"A1 pairs of equal keys":      number("", func(i int) string { return fmt.Sprintf("k%d:\n", i/2) }, ""),
	"A1 equal keys, many levels":  number("", func(i int) string { return strings.Repeat(" ", i%30) + "a:\n" }, ""),
	"different keys":              number("", func(i int) string { return fmt.Sprintf("k%d:\n", i) }, ""),
	"different keys in JSON":      number(`{"":0`, func(i int) string { return fmt.Sprintf(`,"%d":0`, i) }, "}"),
	"unknown fields":              number("preStop:\n", func(i int) string { return fmt.Sprintf("  k%d: 1\n", i) }, ""),
	"unknown fields in a header":  number("preStop: {httpGet: {port: 1, httpHeaders: [{", func(i int) string { return fmt.Sprintf("k%d,", i) }, "}]}}"),
	"headers with unknown fields": fill("preStop: {httpGet: {port: 1, httpHeaders: [", "{b: 1},", "]}}"),

	// FAULTS A2: aliases of one long word.
	"A2 a command of aliases":    "preStop: {exec: {command: [&a " + strings.Repeat("x", 52_000) + strings.Repeat(",*a", 4095) + "]}}",
	"A2 a word and 2 aliases":    "preStop: {exec: {command: [&a " + strings.Repeat("x", 30_000) + ",*a,*a]}}",
	"A2 headers of aliases":      "preStop: {httpGet: {port: 1, httpHeaders: [&a {name: a, value: " + strings.Repeat("x", 45_000) + "}" + strings.Repeat(",*a", 6000) + "]}}",
	"A2 handlers of aliases":     "preStart: &a {exec: {command: [sh, " + strings.Repeat("x", 30_000) + "]}}\npostStart: *a\npreStop: *a\nonExit: *a",
	"A2 merges of a long value":  number("preStop: &a {exec: {command: ["+strings.Repeat("x", 30_000)+"]}}\n", func(i int) string { return fmt.Sprintf("k%d: {<<: *a}\n", i) }, ""),
	"A2 keys of aliases":         number("k: &a "+strings.Repeat("x", 30_000)+"\n", func(i int) string { return fmt.Sprintf("k%d: {*a : 1}\n", i) }, ""),
	"billion laughs":             laughs(9),
	"billion laughs, 900 deep":   laughs(900),
	"laughs in a command":        laughs(4) + "preStop: {exec: {command: *a3}}",
	"quadratic blowup":           "a: &a [" + strings.Repeat("x,", 10_000) + "]\nb: [" + strings.Repeat("*a,", 10_000) + "]",
	"quadratic blowup, empty":    "a: &a [" + strings.Repeat("[],", 9000) + "]\nb: [" + strings.Repeat("*a,", 9000) + "]",
	"an alias of itself":         "a: &a [*a]",
	"an alias of a parent":       "a: &a {b: {c: [*a, *a]}}",
	"a merge of itself":          "a: &a {<<: *a}",
	"aliases":                    fill("- &a x\n", "- *a\n", ""),
	"aliases in flow":            fill("[&a x", ",*a", "]"),
	"anchors":                    number("", func(i int) string { return fmt.Sprintf("- &a%d\n", i) }, ""),
	"one anchor again":           fill("", "- &a\n", ""),
	"anchors and aliases":        number("", func(i int) string { return fmt.Sprintf("- &a%d x\n- *a%d\n", i, i) }, ""),
	"a long anchor":              "- &" + strings.Repeat("a", 30_000) + " x\n- *" + strings.Repeat("a", 30_000),
	"an unknown long anchor":     "*" + strings.Repeat("a", 60_000),
	"a chain of merges":          number("k: &m0 {a: b}\n", func(i int) string { return fmt.Sprintf("k%d: &m%d {<<: *m%d, x%d: 1}\n", i, i+1, i, i) }, ""),
	"a chain of merges, no keys": number("k: &m0 {a: b}\n", func(i int) string { return fmt.Sprintf("k%d: &m%d {<<: *m%d}\n", i, i+1, i) }, ""),
	"a list of merges":           fill("a: &a {b: c}\npreStop: {<<: [*a", ",*a", "]}"),
	"lists of merges":            number("a: &a {b: c}\n", func(i int) string { return fmt.Sprintf("k%d: {<<: [*a,*a,*a,*a,*a,*a,*a,*a]}\n", i) }, ""),
	"merges, each of two":        number("k: &m0 {a: b}\n", func(i int) string { return fmt.Sprintf("k%d: &m%d {<<: [*m%d, *m%d]}\n", i, i+1, i, i) }, ""),
	"a merge of many keys":       number("a: &a {", func(i int) string { return fmt.Sprintf("k%d,", i) }, "}\npreStop: {<<: *a}"),

	"deep lists":             strings.Repeat("[", 9999) + strings.Repeat("]", 9999),
	"deeper lists":           fill("", "[", ""),
	"deep lists in JSON":     strings.Repeat("[", 9999) + strings.Repeat("]", 9999) + " ",
	"deep mappings":          fill("", "{", ""),
	"deep mappings, keys":    fill("", "{a: ", ""),
	"deep both":              fill("", "[{a: ", ""),
	"deep mappings in JSON":  strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000),
	"deep items":             strings.Repeat("- ", 9500),
	"deeper items":           fill("", "- ", ""),
	"deep keys":              fill("", "? ", ""),
	"deep values":            fill("", ": ", ""),
	"deep keys, then a list": fill("", "? - ", ""),
	"deep blocks":            number("", func(i int) string { return strings.Repeat(" ", i) + "a:\n" }, ""),
	"open lists, lines":      fill("", "[\n", ""),
	"deep lists, again":      fill("", "- "+strings.Repeat("[", 500)+strings.Repeat("]", 500)+"\n", ""),
	"deep in quotes":         fill("'", "[{", "'"),

	"items":                      fill("", "-\n", ""),
	"items of items":             fill("", "- - \n", ""),
	"a list":                     fill("[", "a,", "]"),
	"a list of lists":            fill("[", "[],", "]"),
	"a list of mappings":         fill("[", "{},", "]"),
	"a list of pairs":            fill("[", "a: b,", "]"),
	"a list of empty pairs":      fill("[", "a:,", "]"),
	"keys without values":        fill("{", "?,", "}"),
	"keys that are lists":        fill("", "[a]: b\n", ""),
	"keys that are deep lists":   fill("", strings.Repeat("[", 20)+strings.Repeat("]", 20)+": b\n", ""),
	"keys that are deeper lists": fill("", strings.Repeat("[", 500)+strings.Repeat("]", 500)+": b\n", ""),
	"complex keys":               fill("", "? a\n: b\n", ""),
	"complex keys, mappings":     fill("", "? {a: b}\n: {c: d}\n", ""),
	"a list in JSON":             fill("[1", ",1", "]"),
	"a list of lists in JSON":    fill("[[]", ",[]", "]"),
	"lines in JSON":              fill("[1", "\n,1", "]"),
	"spaces in JSON":             fill("[", " \n", "]"),
	"many words":                 "preStop: {exec: {command: [" + strings.Repeat("a,", 4096) + "]}}",
	"four handlers, many words":  strings.NewReplacer("W", "{exec: {command: ["+strings.Repeat("a,", 3900)+"]}}").Replace("preStart: W\npostStart: W\npreStop: W\nonExit: W\n"),
	"too many words":             fill("preStop: {exec: {command: [", "a,", "]}}"),
	"too many words in JSON":     fill(`{"preStop":{"exec":{"command":["a"`, `,"a"`, "]}}}"),
	"words that are numbers":     fill("preStop: {exec: {command: [", "11,", "]}}"),
	"words that are null":        fill("preStop: {exec: {command: [a", ",~ ", "]}}"),
	"words that are dates":       fill("preStop: {exec: {command: [", "1111-1-1,", "]}}"),
	"words with 1 character":     fill("preStop: {exec: {command: [", "\"\\U0001F600\",", "]}}"),
	"many headers":               fill("preStop: {httpGet: {port: 1, httpHeaders: [", "{name: a},", "]}}"),
	"headers that are null":      fill("preStop: {httpGet: {port: 1, httpHeaders: [", "~,", "]}}"),
	"one long word":              fill("preStop: {exec: {command: [", "x", "]}}"),
	"one long word in JSON":      fill(`{"preStop":{"exec":{"command":["`, "x", `"]}}}`),
	"escapes in JSON":            fill(`{"preStop":{"exec":{"command":["`, `\u0001`, `"]}}}`),
	"surrogates in JSON":         fill(`{"preStop":{"exec":{"command":["`, `\ud83d\ude00`, `"]}}}`),
	"half surrogates in JSON":    fill(`{"preStop":{"exec":{"command":["`, `\ud83d`, `"]}}}`),
	"odd characters in JSON":     fill(`{"preStop":{"exec":{"command":["`, "\x7f\u2028\ufeff", `"]}}}`),

	"a long key":               fill("? ", "k", "\n: a\n"),
	"a long key of a handler":  fill("preStop: {? ", "k", " : a}\n"),
	"a long key, odd":          fill("preStop: {? \"", `\x01`, "\" : a}\n"),
	"a long key in JSON":       fill(`{"`, "k", `": 1}`),
	"a long odd key in JSON":   fill(`{"preStop": {"`, `\u0001`, `": 1}}`),
	"a long signal":            fill("stopSignal: ", "S", ""),
	"a long odd signal":        fill("stopSignal: \"", `\0`, "\""),
	"a long host":              fill("preStop: {httpGet: {port: 1, host: ", "h", "}}"),
	"a long zone":              fill("preStop: {httpGet: {port: 1, host: \"fe80::1%", "z", "\"}}"),
	"a long path":              fill("preStop: {httpGet: {port: 1, path: \"a:", "/", "\"}}"),
	"a long path, no URL":      fill("preStop: {httpGet: {port: 1, path: \"", "%", "\"}}"),
	"a long scheme":            fill("preStop: {httpGet: {port: 1, scheme: ", "h", "}}"),
	"a long port":              fill("preStop: {httpGet: {port: ", "h", "}}"),
	"a long header":            fill("preStop: {httpGet: {port: 1, httpHeaders: [{name: \"", "h ", "\"}]}}"),
	"a long header's value":    fill("preStop: {httpGet: {port: 1, httpHeaders: [{name: "+strings.Repeat("h", 30_000)+", value: \"", `\0`, "\"}]}}"),
	"a long policy":            fill("postStart: {exec: {command: [a]}, failurePolicy: ", "p", "}"),
	"a long output":            fill("postStart: {exec: {command: [a]}, output: ", "p", "}"),
	"a template":               fill("preStop: {{ ", "x ", "}}"),
	"a text for a number":      fill("preStop: {sleep: {seconds: ", "x", "}}"),
	"a template for a number":  fill("preStop: {sleep: {seconds: '", "{{", "'}}"),
	"a huge number":            fill("preStop: {sleep: {seconds: ", "1", "}}"),
	"a huge number in JSON":    fill(`{"preStop": {"sleep": {"seconds": `, "1", "}}}"),
	"a huge exponent":          fill("preStop: {sleep: {seconds: 1e", "9", "}}"),
	"a huge fraction":          fill("preStop: {sleep: {seconds: 0.", "1", "}}"),
	"a number with _":          fill("preStop: {sleep: {seconds: 1", "_", "}}"),
	"a huge hexadecimal":       fill("preStop: {sleep: {seconds: 0x", "f", "}}"),
	"numbers":                  fill("[", "1,", "]"),
	"floats":                   fill("[", "1.,", "]"),
	"numbers with _":           fill("[", "1_,", "]"),
	"dates":                    fill("[", "1111-1-1,", "]"),
	"not dates":                fill("[", "1111-1,", "]"),
	"a wrong !!int":            fill("preStop: {sleep: {seconds: !!int ", "x", "}}"),
	"a wrong !!binary":         fill("preStop: {exec: {command: [!!binary ", "x", "=]}}"),
	"!!binary":                 fill("preStop: {exec: {command: [", "!!binary aGk=,", "]}}"),
	"one !!binary":             fill("preStop: {exec: {command: [!!binary ", "AAAA", "]}}"),
	"tags":                     fill("[", "!a x,", "]"),
	"tags, escaped":            fill("", "- !%41%41%41%41%41%41%41%41%41%41%41%41%41%41%41 a\n", ""),
	"a long tag":               fill("preStop: !", "a", " x"),
	"tag directives":           number("", func(i int) string { return fmt.Sprintf("%%TAG !a%d! b\n", i) }, "---\na"),
	"tag directives and tags":  number(number("", func(i int) string { return fmt.Sprintf("%%TAG !a%d! b\n", i%1500) }, "")[:25_000]+"\n---\n", func(int) string { return "- !a1!x y\n" }, ""),
	"one directive, long tags": "%TAG !a! " + strings.Repeat("b", 30_000) + "\n---\n" + strings.Repeat("- !a!x\n", 4500),
	"long tags":                fill("", "- !<"+strings.Repeat("b", 500)+"> a\n", ""),
	"15 directives, long tags": number("", func(i int) string { return fmt.Sprintf("%%TAG !a%d! %s\n", i, strings.Repeat("b", 3000)) }, "")[:45_000] + "\n---\n" + strings.Repeat("- !a1!x y\n", 2000),
	"a directive":              fill("%", "A", "\n---\na"),
	"documents":                fill("", "---\n", ""),
	"documents with values":    fill("", "---\na\n", ""),
	"document ends":            fill("a\n", "...\n", ""),

	"comments":              fill("", "#\n", ""),
	"comments at values":    fill("", "a: #\n", ""),
	"comments at keys":      number("", func(i int) string { return fmt.Sprintf("#\nk%d:\n", i) }, ""),
	"comments at items":     fill("", "#\n-\n", ""),
	"comments in a list":    fill("[", "#\na,", "]"),
	"comments, spaced":      fill("[", " #\n", "]"),
	"comments, indented":    fill("", "-\n #\n  #\n", ""),
	"comments after":        fill("a:\n", "#\n\n", ""),
	"comments below":        fill("a:\n", "  - b\n  #\n\n", ""),
	"one long comment":      fill("preStop: {sleep: {}} #", "x", ""),
	"comments, NEL":         strings.Repeat("\u0085#", 11_990),
	"comments, LS":          fill("a:\n  ", "\u2028#", ""),
	"most comments, lines":  strings.Repeat("\n#", 11_990),
	"comments in a node":    fill("", "&a a: [#\r", ""),
	"comments, long":        fill("", "- #"+strings.Repeat("x", 60)+"\n", ""),
	"escapes":               fill("\"", `\"`, "\""),
	"escapes that grow":     fill("preStop: {exec: {command: [\"", `\L`, "\"]}}"),
	"folds":                 fill("\"", "a\n", "\""),
	"folds of spaces":       fill("\"", " \n", "\""),
	"empty lines":           fill("\"", "\n", "\""),
	"quotes":                fill("'", "''", "'"),
	"open quotes":           fill("", "- \"\n", ""),
	"a plain text in lines": fill("a", "\na", ""),
	"spaces":                fill("a", " ", ""),
	"a literal":             fill("|\n", " a\n", ""),
	"an empty literal":      fill("|\n", " \n", ""),
	"a folded text":         fill(">\n", "  a\n\n", ""),
	"literals":              fill("", "- |\n\n", ""),
	"literals in a command": fill("preStop:\n  exec:\n    command:\n", "    - |\n     a\n", ""),
	"byte order marks":      fill("", "\ufeff", ""),
	"NUL":                   fill("", "\x00", ""),
	"NUL in words":          fill("preStop: {exec: {command: [a, \"", `\0`, "\"]}}"),
	"NUL in a key":          fill("\"", `\0`, "\": a"),
	"tabs":                  fill("", "\t", ""),
	"returns":               fill("", "\r", ""),
	"odd line ends":         fill("", "\u0085", ""),
	"odd line ends, items":  fill("", "-\u2028", ""),
	"not UTF-8":             fill("", "\xff", ""),
	"too long":              strings.Repeat("a:\n", 1<<20),
}

// TestBombsAreLong: most of them have the maximum length of a value.
func TestBombsAreLong(t *testing.T) {
	long := 0
	for name, bomb := range bombs {
		if len(bomb) > maxText*9/10 {
			long++
		}
		if len(bomb) > maxText && name != "too long" {
			t.Errorf("%s has %d bytes, and is not read", name, len(bomb))
		}
	}
	if long < len(bombs)*3/4 {
		t.Errorf("%d of %d are long", long, len(bombs))
	}
}
