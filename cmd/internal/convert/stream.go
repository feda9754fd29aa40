package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"runtime"
	"sync"
	"sync/atomic"
)

// byteOrderMark is put at the start of files by some editors.
const byteOrderMark = "\ufeff"

// Stream converts the manifests in data: YAML or JSON documents, including lists. It returns
// nil if anything is refused. It changes no byte of a document in which nothing moves. more
// names kinds that have pods and are not built in.
func Stream(data []byte, rules Rules, more ...PodPath) ([]byte, *Report) {
	text := bytes.TrimPrefix(data, []byte(byteOrderMark))
	documents := split(text)
	results, reports := make([][]byte, len(documents)), make([]Report, len(documents))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(documents)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(documents)); i = next.Add(1) - 1 {
				var err error
				if results[i], err = documents[i].convert(&reports[i], rules, more); err != nil {
					reports[i].refuse(documents[i].finding(err))
				}
			}
		})
	}
	workers.Wait()
	report := &Report{}
	for _, one := range reports {
		report.Refusals = append(report.Refusals, one.Refusals...)
		report.Warnings = append(report.Warnings, one.Warnings...)
		report.Moved += one.Moved
	}
	if len(report.Refusals) > 0 {
		return nil, report
	}
	return bytes.Join(append([][]byte{data[:len(data)-len(text)]}, results...), nil), report
}

// separator is a line that begins a document. Text after it on the line belongs to the
// document, unless it is a comment.
var (
	separator     = regexp.MustCompile(`^---(?:[ \t\r].*)?$`)
	bareSeparator = regexp.MustCompile(`^---[ \t\r]*(?:[ \t]#.*)?$`)
)

// split returns the documents of a stream. It looks for lines that begin with ---, which no
// value of a YAML or JSON document can contain.
func split(data []byte) []document {
	starts := []int{0}
	for at := 0; ; {
		next := bytes.Index(data[at:], []byte("\n---"))
		if next < 0 {
			break
		}
		at += next + 1
		if line, _, _ := bytes.Cut(data[at:], []byte("\n")); separator.Match(line) {
			starts = append(starts, at)
		}
	}
	var all []document
	number, line := 0, 1
	for i, start := range starts {
		end := len(data)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		for _, d := range splitChunk(data[start:end], len(starts) > 1) {
			if len(bytes.TrimSpace(d.text)) > 0 {
				number++
			}
			d.number = number
			d.line = line + bytes.Count(d.separator, []byte("\n"))
			line = d.line + bytes.Count(d.text, []byte("\n"))
			all = append(all, d)
		}
	}
	return all
}

// splitChunk separates the separator line from the text, and JSON values from one another.
func splitChunk(chunk []byte, separated bool) []document {
	line, rest, _ := bytes.Cut(chunk, []byte("\n"))
	d := document{text: chunk, inline: separator.Match(line)}
	if bareSeparator.Match(line) {
		d = document{separator: chunk[:len(chunk)-len(rest)], text: rest}
	}
	values := jsonValues(d.text)
	if values == nil {
		return []document{d}
	}
	all := make([]document, len(values))
	for i, value := range values {
		all[i] = document{text: value, json: true}
	}
	all[0].separator = d.separator
	for i := 1; i < len(all); i++ {
		all[i].hidden = separated
	}
	return all
}

// jsonValues splits a stream of JSON objects, each with the space around it. It returns nil
// if the text is not such a stream.
func jsonValues(text []byte) [][]byte {
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	var ends []int
	for {
		var value json.RawMessage
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || value[0] != '{' {
			return nil
		}
		ends = append(ends, int(decoder.InputOffset()))
	}
	ends[len(ends)-1] = len(text)
	values, start := make([][]byte, len(ends)), 0
	for i, end := range ends {
		values[i], start = text[start:end], end
	}
	return values
}

// Join makes one stream of several. JSON values only follow one another. If there is YAML,
// --- separates all documents: after a YAML document kubectl reads one JSON value only.
func Join(streams [][]byte) []byte {
	if len(streams) == 1 {
		return streams[0]
	}
	var parts [][]byte
	between := ""
	for _, stream := range streams {
		values := jsonValues(stream)
		if values == nil {
			between, values = "---\n", [][]byte{stream}
		}
		parts = append(parts, values...)
	}
	var all bytes.Buffer
	for i, part := range parts {
		if i > 0 {
			if !bytes.HasSuffix(all.Bytes(), []byte("\n")) {
				all.WriteByte('\n')
			}
			if first, _, _ := bytes.Cut(part, []byte("\n")); !separator.Match(first) {
				all.WriteString(between)
			}
		}
		all.Write(part)
	}
	return all.Bytes()
}
