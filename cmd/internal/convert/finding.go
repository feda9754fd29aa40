package convert

import "strings"

// Finding is one thing to say, and what it is about.
type Finding struct {
	// Object is kind/name, such as Deployment/web; "document 2" for what has no kind.
	Object string
	// Container's name; empty where none is concerned.
	Container string
	// Field is its path below the container, or below the object; empty where
	// the whole is concerned.
	Field string
	// Line of the input, from 1; 0 where it is not known.
	Line int
	// Text says what is so, or what is wrong and what to do.
	Text string
}

func (f Finding) String() string {
	var parts []string
	for _, part := range []string{f.Object, containerOf(f.Container), f.Field, f.Text} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

func containerOf(name string) string {
	if name == "" {
		return ""
	}
	return "container " + name
}

// Report is what there is to say of a conversion or a validation.
type Report struct {
	// Refusals: with one or more there is no result.
	Refusals []Finding
	// Warnings: the result is right, and not all that one might expect.
	Warnings []Finding
	// Checked is what a validation has looked at, and accepted.
	Checked []Finding
	// Moved counts the containers whose handlers a conversion has moved.
	Moved int
}

func (r *Report) refuse(f Finding) { r.Refusals = append(r.Refusals, f) }
func (r *Report) warn(f Finding)   { r.Warnings = append(r.Warnings, f) }
