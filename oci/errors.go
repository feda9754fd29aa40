package oci

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// What an error may hold of foreign text, in bytes. An annotation's key in Kubernetes has
// at most 317. Together they stay below 4 KiB.
const (
	maxKey     = 512
	maxPath    = 512
	maxProblem = 1024
	maxQuoted  = 128
)

// InvalidError says that an annotation cannot be used, where, and what to do.
type InvalidError struct {
	// Key is the annotation's, however long it is.
	Key string
	// Path of the field within the value, such as postStart.exec.command[2];
	// empty for the value as a whole. At most 512 bytes.
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

// braces returns a hint for a value in which a template was not rendered.
func braces(text string) string {
	if strings.Contains(text, "{{") {
		return "; " + templateHint
	}
	return ""
}

// shown is the name of an unknown field as it is written, unless that would make the path
// hard to read.
func shown(name string) string {
	odd := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if name == "" || len(name) > maxQuoted || strings.ContainsFunc(name, odd) {
		return quote(name)
	}
	return name
}

// first of what err joins. Whoever creates a container reads one line.
func first(err error) error {
	if all := flatten(err); len(all) > 0 {
		return all[0]
	}
	return err
}

// flatten lists what err joins, in order.
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

// of makes the fieldErrors that err joins into problems of an annotation. For a field that
// is missing the problem is that, and not the value that an absent field has.
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
