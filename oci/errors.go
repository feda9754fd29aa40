package oci

import (
	"errors"
	"fmt"
)

// InvalidError says that an annotation cannot be used, where, and what to do.
type InvalidError struct {
	// Key is the annotation's.
	Key string
	// Path of the field within the value, such as postStart.exec.command[2];
	// empty for the value as a whole.
	Path string
	// Problem says what is wrong and what is allowed.
	Problem string
}

func (e *InvalidError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("annotation %q %s", e.Key, e.Problem)
	}
	return fmt.Sprintf("annotation %q: %s %s", e.Key, e.Path, e.Problem)
}

// fieldError is an InvalidError whose annotation key is not known yet.
type fieldError struct{ path, problem string }

func (e *fieldError) Error() string { return e.path + " " + e.problem }

func invalid(path, format string, args ...any) error {
	return &fieldError{path: path, problem: fmt.Sprintf(format, args...)}
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

// of makes the fieldErrors that err joins into problems of an annotation.
func of(key string, err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, part := range joined.Unwrap() {
			all = append(all, of(key, part))
		}
		return errors.Join(all...)
	}
	if field := (*fieldError)(nil); errors.As(err, &field) {
		return &InvalidError{Key: key, Path: field.path, Problem: field.problem}
	}
	return err
}
