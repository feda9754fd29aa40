package report

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// The page's lines around what the measurement writes.
const (
	pageBegin = "<!-- measured: begin; written by `make bench-page` -->\n"
	pageEnd   = "<!-- measured: end -->\n"
)

// Measured cuts out what stands between the marks of a page.
func Measured(page string) (before, measured, after string, err error) {
	before, rest, ok := strings.Cut(page, pageBegin)
	measured, after, also := strings.Cut(rest, pageEnd)
	if !ok || !also {
		return "", "", "", errors.New("the page lacks the line " + strings.TrimSpace(pageBegin) + " or " + strings.TrimSpace(pageEnd))
	}
	return before + pageBegin, measured, pageEnd + after, nil
}

// WritePage puts the report's tables between the marks of a page.
func (r *Report) WritePage(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, _, after, err := Measured(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(before+"\n"+r.Markdown()+"\n"+after), 0o644)
}
