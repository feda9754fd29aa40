package oci

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// Limits of quoted text in an error, in bytes. In Kubernetes an annotation's key has at
// most 317. Together they stay below 4 KiB.
const (
	maxKey     = 512
	maxPath    = 512
	maxProblem = 1024
	maxQuoted  = 128
)

// InvalidError reports a mistake in an annotation.
type InvalidError struct {
	// Key is the annotation's. It may have any length.
	Key string
	// Path is the field within the value, such as postStart.exec.command[2], in at most 512
	// bytes. It is empty if the mistake is in the value as a whole.
	Path string
	// Problem says what is wrong and what is allowed, in one line of at most 1 KiB.
	Problem string
}

func (e *InvalidError) Error() string {
	key, problem := shorten.Quote(e.Key, maxKey), shorten.End(e.Problem, maxProblem)
	if e.Path == "" {
		return fmt.Sprintf("annotation %s %s", key, problem)
	}
	return fmt.Sprintf("annotation %s: %s %s", key, shorten.End(e.Path, maxPath), problem)
}

// fieldError is an InvalidError whose annotation key is not known yet.
type fieldError struct{ path, problem string }

func (e *fieldError) Error() string { return e.path + " " + e.problem }

func invalid(path, format string, args ...any) error {
	return &fieldError{path: shorten.End(path, maxPath), problem: shorten.End(fmt.Sprintf(format, args...), maxProblem)}
}

// quote shows a value in an error.
func quote(text string) string { return shorten.Quote(text, maxQuoted) }

// braces returns a hint if the value looks like a template that was not rendered.
func braces(text string) string {
	if strings.Contains(text, "{{") {
		return "; " + templateHint
	}
	return ""
}

// shown returns the name of an unknown field, in quotes if it would make the path hard to
// read.
func shown(name string) string {
	odd := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if name == "" || len(name) > maxQuoted || strings.ContainsFunc(name, odd) {
		return quote(name)
	}
	return name
}

// first returns the first error that err joins: the error of a Create is one line.
func first(err error) error {
	if all := flatten(err); len(all) > 0 {
		return all[0]
	}
	return err
}

// flatten returns the errors that err joins, in order.
func flatten(err error) []*InvalidError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*InvalidError
		for _, part := range joined.Unwrap() {
			all = append(all, flatten(part)...)
		}
		return all
	}
	if one := (*InvalidError)(nil); errors.As(err, &one) {
		return []*InvalidError{one}
	}
	return nil
}

// fields returns the fieldErrors that err joins, in order.
func fields(err error) []*fieldError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*fieldError
		for _, part := range joined.Unwrap() {
			all = append(all, fields(part)...)
		}
		return all
	}
	if one := (*fieldError)(nil); errors.As(err, &one) {
		return []*fieldError{one}
	}
	return nil
}

// of turns the fieldErrors that err joins into InvalidErrors with the key. For a missing
// field the problem is that it is missing, not that its zero value is invalid.
func of(key string, err error, missing map[string]string) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, part := range joined.Unwrap() {
			all = append(all, of(key, part, missing))
		}
		return errors.Join(all...)
	}
	if field := (*fieldError)(nil); errors.As(err, &field) {
		problem := field.problem
		if takes, ok := missing[field.path]; ok {
			problem = "is missing; " + takes
		}
		return &InvalidError{Key: key, Path: field.path, Problem: problem}
	}
	return err
}
