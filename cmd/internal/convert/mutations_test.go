package convert

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mutatedShare is how many documents TestMutations makes; MUTATED_DOCUMENTS sets another
// number.
const mutatedShare = 300

// TestMutations does in a bounded time what FuzzUnedited does for as long as one likes: it
// changes lines and characters of the known documents, and holds what still converts to
// equal meaning and unedited bytes.
func TestMutations(t *testing.T) {
	share, err := strconv.Atoi(os.Getenv("MUTATED_DOCUMENTS"))
	if err != nil {
		share = mutatedShare
	}
	var texts []string
	for _, pattern := range []string{"testdata/*.in.*", "testdata/public/*.[jy]*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			for _, d := range split([]byte(readFile(t, name))) {
				texts = append(texts, string(d.text))
			}
		}
	}
	for _, style := range styleCases {
		texts = append(texts, style.text)
	}
	edited := 0
	for seed := range uint64(share) {
		m := mutator{rand.New(rand.NewPCG(seed, 5))}
		text := texts[m.IntN(len(texts))]
		for range 1 + m.IntN(4) {
			text = m.mutate(text)
		}
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			if checkUnedited(t, []byte(text)) {
				edited++
			}
		})
		if t.Failed() {
			t.Fatalf("it is %s", text)
		}
	}
	t.Logf("%d of %d are edited", edited, share)
	if edited < share/5 {
		t.Errorf("only %d of %d are edited", edited, share)
	}
}

type mutator struct{ *rand.Rand }

func (m mutator) mutate(text string) string {
	lines := strings.Split(text, "\n")
	at := m.IntN(len(lines))
	indent := len(lines[at]) - len(strings.TrimLeft(lines[at], " "))
	switch m.IntN(9) {
	case 0:
		return strings.Join(slices.Insert(lines, at, strings.Repeat(" ", max(0, indent+m.IntN(5)-2))+"# comment"), "\n")
	case 1:
		return strings.Join(slices.Insert(lines, at, strings.Repeat(" ", m.IntN(3)*indent/2)), "\n")
	case 2:
		lines[at] += []string{"  ", " # beside", "\t", " #", ","}[m.IntN(5)]
	case 3:
		return strings.Join(slices.Insert(lines, at, lines[at]), "\n")
	case 4:
		return strings.Join(slices.Delete(lines, at, at+1), "\n")
	case 5:
		if at > 0 {
			lines[at], lines[at-1] = lines[at-1], lines[at]
		}
	case 6:
		return strings.ReplaceAll(text, "\n", "\r\n")
	case 7:
		return strings.TrimRight(text, "\n")
	default:
		position := m.IntN(len(text) + 1)
		chars := []string{"{", "}", "[", "]", ":", ",", "#", "&a ", "*a", "!", "|", ">", "'", `"`, "%", "-", "- ", "? ", " ", "\t", "\n", "\r", "é", "\u2028", "\ufeff", "<<", "~", "null", "...\n", "\\"}
		return text[:position] + chars[m.IntN(len(chars))] + text[position:]
	}
	return strings.Join(lines, "\n")
}
