package installer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

const (
	// maxNote is the size of an Event's message and of the annotation's value. An API server refuses longer notes of
	// events.k8s.io/v1, which has the same objects.
	maxNote = 1024
	// maxCure leaves most of a note to the message.
	maxCure = 300
	// mostNames is how many pods or nodes a text names.
	mostNames = 5
	// maxName of a pod with its namespace: both have at most 253 bytes, and few have more than 80.
	maxName = 120
)

// Failure is an error of the node, as opposed to one of the API server: it is put on the Node, and counts.
type Failure struct {
	Step    string `json:"step"`
	Message string `json:"message"`
	Cure    string `json:"cure"`
}

// Error is one line of at most maxNote bytes, which ends with the cure.
func (f *Failure) Error() string {
	cure := ""
	if f.Cure != "" {
		cure = shorten.Middle(shorten.OneLine(f.Cure), maxCure)
		cure = ". To do: " + strings.TrimSuffix(cure, ".")
	}
	text := shorten.OneLine(f.Message)
	if f.Step != "" {
		text = shorten.OneLine(f.Step) + ": " + text
	}
	return shorten.Middle(strings.TrimSuffix(text, "."), maxNote-len(cure)-1) + cure + "."
}

// asFailure returns the node's failure in an error, and nil for another error.
func asFailure(err error) *Failure {
	var failure *Failure
	if errors.As(err, &failure) {
		return failure
	}
	return nil
}

// Names is a number of things with the names of some.
type Names struct {
	Count int
	Some  []string // at most mostNames
}

// Add counts one, and keeps its name if there is room.
func (n *Names) Add(name string) {
	n.Count++
	if len(n.Some) < mostNames {
		n.Some = append(n.Some, shorten.Middle(name, maxName))
	}
}

// String is "a, b and 3 more".
func (n Names) String() string {
	text := strings.Join(n.Some, ", ")
	if more := n.Count - len(n.Some); more > 0 {
		text = fmt.Sprintf("%s and %d more", text, more)
	}
	return text
}

// podsOf names pods of a RuntimeClass.
func podsOf(class string, pods Names) string {
	noun := "pods"
	if pods.Count == 1 {
		noun = "pod"
	}
	return fmt.Sprintf("%d %s of RuntimeClass %s: %s", pods.Count, noun, class, pods)
}
