package oci

import "fmt"

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
