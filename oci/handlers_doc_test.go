package oci

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// TestHandlersPage: docs/use/handlers.md names every field of the schema, and its examples
// are accepted.
func TestHandlersPage(t *testing.T) {
	page := docpage.Read(t, "docs/use/handlers.md")
	for _, field := range fieldsBelow((&lifecyclev1.Block{}).ProtoReflect().Descriptor(), "") {
		name := field
		if kind, below, ok := strings.Cut(field, "."); ok && slices.Contains(Handlers, kind) {
			name = below
		}
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("the field %s is not on the page", name)
		}
	}
	examples := docpage.Blocks(page, "yaml")
	for _, example := range examples {
		if _, err := (&Spec{Annotations: map[string]string{KeyLifecycle: example}}).Lifecycle(); err != nil {
			t.Errorf("%v in the example\n%s", err, example)
		}
	}
	if len(examples) < 3 {
		t.Errorf("%d examples are found", len(examples))
	}
}

// fieldsBelow returns the paths of the fields that are not messages.
func fieldsBelow(message protoreflect.MessageDescriptor, path string) []string {
	var found []string
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		name := path + field.JSONName()
		switch {
		case field.Message() == nil:
			found = append(found, name)
		case field.IsList():
			found = append(found, fieldsBelow(field.Message(), name+"[].")...)
		default:
			found = append(found, fieldsBelow(field.Message(), name+".")...)
		}
	}
	return found
}
