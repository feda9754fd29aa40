package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// builder compiles the tests of a package with mutants in it.
type builder struct {
	root, dir string // of the repository, and of the package below it
	name      string // of the package
	temp      string
	count     int // of mutants
}

//go:embed switch.go.txt
var switchSource string

// placeholder is replaced in the binary by the number of the mutant that is on, and the file in which those are noted that are
// reached.
const (
	placeholderStart = "lifecycle-shim mutant:"
	numberSize       = 8
	traceSize        = 160
)

func placeholder(number int, trace string) string {
	return fmt.Sprintf("%s%-*d%-*s", placeholderStart, numberSize, number, traceSize, trace)
}

// together compiles all mutants that can be, into one binary. Those that the compiler refuses are tried by themselves later.
func (b *builder) together(all []*mutant, binary string) error {
	tests, err := b.tests()
	if err != nil {
		return err
	}
	for range 12 {
		layout := render(all)
		files := maps.Clone(tests)
		maps.Copy(files, layout.files)
		output, err := b.compile(files, binary)
		if err == nil {
			return nil
		}
		if !layout.takeOut(filepath.Join(b.root, b.dir), output) {
			return fmt.Errorf("cannot compile the package with its mutants: %w\n%s", err, output)
		}
	}
	return fmt.Errorf("cannot compile the package with its mutants: the compiler finds other mistakes each time")
}

// tests are the package's test files, in which each test says that it begins.
func (b *builder) tests() (map[string][]byte, error) {
	paths, err := filepath.Glob(filepath.Join(b.root, b.dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if bytes.Contains(text, []byte("\npackage "+b.name+"_test\n")) {
			continue // it cannot call mutantTest
		}
		files[path] = testBegin.ReplaceAll(text, []byte(`${0} mutantTest("$1");`))
	}
	return files, nil
}

var testBegin = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w*)\(\w* ?\*testing\.[TF]\) {`)

// alone compiles one mutant, and reports whether it could be.
func (b *builder) alone(m *mutant, binary string) bool {
	text := slices.Concat(m.file.text[:m.start], []byte(m.plain), m.file.text[m.end:])
	_, err := b.compile(map[string][]byte{m.file.path: text}, binary)
	return err == nil
}

func (b *builder) compile(files map[string][]byte, binary string) (string, error) {
	dir, err := os.MkdirTemp(b.temp, "overlay")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	files[filepath.Join(b.root, b.dir, "mutant_switch.go")] = []byte(b.switchFile())
	replace := map[string]string{}
	for path, text := range files {
		replace[path] = filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(replace[path], text, 0o644); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "test", "-c", "-overlay", overlayFile, "-tags", buildTags, "-gcflags=-e", "-o", binary, "./"+b.dir)
	cmd.Dir = b.root
	output, err := cmd.CombinedOutput()
	return string(output), err
}

func (b *builder) switchFile() string {
	return strings.NewReplacer(
		"{PACKAGE}", b.name, "{PLACEHOLDER}", strconv.Quote(placeholder(0, "")), "{COUNT}", strconv.Itoa(b.count),
		"{START}", strconv.Itoa(len(placeholderStart)), "{END}", strconv.Itoa(len(placeholderStart)+numberSize),
	).Replace(switchSource)
}

// layout is the text of the files with mutants in it, and where they are.
type layout struct {
	files  map[string][]byte
	pieces map[string][]piece
}

// piece is what was inserted for a mutant.
type piece struct {
	m          *mutant
	start, end int
}

// insertion of text at a place of the file.
type insertion struct {
	m    *mutant
	at   int
	text string
}

// render puts the mutants into the text of their files: the outer around the inner.
func render(all []*mutant) *layout {
	byFile := map[*source][]*mutant{}
	for _, m := range all {
		if m.before != "" {
			byFile[m.file] = append(byFile[m.file], m)
		}
	}
	l := &layout{files: map[string][]byte{}, pieces: map[string][]piece{}}
	for file, mutants := range byFile {
		text := bytes.Buffer{}
		last := 0
		for _, i := range insertions(mutants) {
			text.Write(file.text[last:i.at])
			last = i.at
			start := text.Len()
			text.WriteString(strings.ReplaceAll(i.text, "\x00", fmt.Sprintf("mutant(%d)", i.m.id)))
			l.pieces[file.path] = append(l.pieces[file.path], piece{i.m, start, text.Len()})
		}
		text.Write(file.text[last:])
		l.files[file.path] = text.Bytes()
	}
	return l
}

func insertions(mutants []*mutant) []insertion {
	mutants = slices.Clone(mutants)
	slices.SortStableFunc(mutants, func(a, b *mutant) int {
		if a.start != b.start {
			return a.start - b.start
		}
		return b.end - a.end // the longer one is outside
	})
	var all []insertion
	var open []*mutant // whose end is still to come, the inner ones last
	closeUntil := func(at int) {
		for len(open) > 0 && open[len(open)-1].end <= at {
			m := open[len(open)-1]
			open = open[:len(open)-1]
			all = append(all, insertion{m, m.end, m.after})
		}
	}
	for _, m := range mutants {
		closeUntil(m.start)
		all = append(all, insertion{m, m.start, m.before})
		open = append(open, m)
	}
	closeUntil(int(^uint(0) >> 1))
	return all
}

var position = regexp.MustCompile(`(?m)^(\S+\.go):(\d+):(\d+): `)

// takeOut looks for the mutants that the compiler complains of, and leaves them to be compiled alone. It returns false if there
// are none.
func (l *layout) takeOut(dir, output string) bool {
	found := false
	for _, match := range position.FindAllStringSubmatch(output, -1) {
		path := filepath.Join(dir, filepath.Base(match[1])) // the compiler names the overlay's file, or the tree's
		text, ok := l.files[path]
		if !ok {
			continue
		}
		line, _ := strconv.Atoi(match[2])
		column, _ := strconv.Atoi(match[3])
		lines := bytes.SplitAfter(text, []byte("\n"))
		at := len(bytes.Join(lines[:line-1], nil)) + column - 1
		if m := l.nearest(path, at); m != nil {
			m.before, m.after, found = "", "", true
		}
	}
	return found
}

// nearest is the mutant whose text is at this place, or the innermost around it.
func (l *layout) nearest(path string, at int) *mutant {
	opened := map[*mutant]int{}
	var best *mutant
	size := 0
	for _, p := range l.pieces[path] {
		if p.start <= at && at < p.end {
			return p.m
		}
		start, second := opened[p.m]
		if !second {
			opened[p.m] = p.start
			continue
		}
		if start <= at && at < p.end && (best == nil || p.end-start < size) {
			best, size = p.m, p.end-start
		}
	}
	return best
}
