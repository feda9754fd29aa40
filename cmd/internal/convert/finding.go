package convert

import "strings"

// Finding is one result of a conversion or a validation.
type Finding struct {
	// Object is kind/name, such as Deployment/web, or "document 2" if it has no kind.
	Object string
	// Container is the container's name, empty if the finding is not about a container.
	Container string
	// Field is a path below the container or the object, empty if the finding is about the
	// whole container or object.
	Field string
	// Line of the input, from 1; 0 if it is not known.
	Line int
	// Text is the finding: for an error, what is wrong and what to do.
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

// Report holds the findings of a conversion or a validation.
type Report struct {
	// Refusals are errors. With one or more there is no result.
	Refusals []Finding
	// Warnings are about a correct result that may not be all that its user expects.
	Warnings []Finding
	// Checked lists what a validation accepted.
	Checked []Finding
	// Moved counts the containers whose handlers a conversion has moved.
	Moved int
}

func (r *Report) refuse(f Finding) { r.Refusals = append(r.Refusals, f) }
func (r *Report) warn(f Finding)   { r.Warnings = append(r.Warnings, f) }
