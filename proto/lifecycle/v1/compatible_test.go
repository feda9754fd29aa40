package lifecyclev1

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

var update = flag.Bool("update", false, "add what is new to compatible.txt")

// TestCompatible: what has been published on the wire stays as it is. A line of
// compatible.txt that is gone or reads otherwise is a field or a method that an
// older client or shim would misunderstand. What is new is added with -update,
// and is fixed from then on.
func TestCompatible(t *testing.T) {
	const golden = "compatible.txt"
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	published, now := slices.Collect(lines(string(text))), wire()
	for _, line := range published {
		if !slices.Contains(now, line) {
			t.Errorf("%q is what earlier builds send, and must stay", line)
		}
	}
	if t.Failed() || slices.Equal(published, now) {
		return
	}
	if !*update {
		t.Fatalf("%s lacks what is new: go test ./proto/... -update", golden)
	}
	if err := os.WriteFile(golden, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func lines(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(text) {
			if !yield(strings.TrimSpace(line)) {
				return
			}
		}
	}
}

// wire lists what others rely on: of each field its message, number, kind and
// cardinality, and of each method its messages. Names are left out of fields
// where only numbers are sent, but JSON has them, so they are in.
func wire() []string {
	var found []string
	for _, file := range []protoreflect.FileDescriptor{
		File_proto_lifecycle_v1_lifecycle_proto, File_proto_lifecycle_v1_options_proto,
		File_proto_lifecycle_v1_status_proto, File_proto_lifecycle_v1_events_proto, File_proto_lifecycle_v1_launch_proto,
	} {
		for i := range file.Messages().Len() {
			message := file.Messages().Get(i)
			for j := range message.Fields().Len() {
				found = append(found, fieldLine(message.Fields().Get(j)))
			}
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				found = append(found, fmt.Sprintf("%s(%s) %s", method.FullName(), method.Input().FullName(), method.Output().FullName()))
			}
		}
	}
	slices.Sort(found)
	return found
}

func fieldLine(field protoreflect.FieldDescriptor) string {
	kind := field.Kind().String()
	if field.Message() != nil {
		kind = string(field.Message().FullName())
	}
	presence := ""
	if field.HasOptionalKeyword() {
		presence = " explicit"
	}
	return fmt.Sprintf("%s = %d %s %s %s%s", field.ContainingMessage().FullName(), field.Number(), field.Cardinality(), kind, field.JSONName(), presence)
}
