package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// TestCountFields: an answer is refused before it is decoded if it would need much memory.
func TestCountFields(t *testing.T) {
	encode := func(response *lifecyclev1.StatusResponse) []byte {
		encoded, err := proto.Marshal(response)
		if err != nil {
			t.Fatal(err)
		}
		return encoded
	}
	repeat := func(field string, n int) []byte { return []byte(strings.Repeat(field, n)) }
	var inside []byte // one container with many empty runs
	runs := (&lifecyclev1.ContainerStatus{}).ProtoReflect().Descriptor().Fields().ByName("runs").Number()
	for range 10 {
		inside = append(inside, byte(runs<<3|2), 0)
	}
	for name, test := range map[string]struct {
		encoded []byte
		most    int
		want    int
		err     string
	}{
		"nothing":                         {nil, 0, 0, ""},
		"a container":                     {encode(&lifecyclev1.StatusResponse{Containers: []*lifecyclev1.ContainerStatus{{Id: "c1", Phase: "Running"}}}), 3, 3, ""},
		"the most":                        {repeat("\x0a\x00", 5), 5, 5, ""},
		"too many":                        {repeat("\x0a\x00", 6), 5, 0, "too many fields"},
		"too many inside":                 {append([]byte{0x0a, byte(len(inside))}, inside...), 10, 0, "too many fields"},
		"as many inside":                  {append([]byte{0x0a, byte(len(inside))}, inside...), 11, 11, ""},
		"unknown fields count":            {repeat("\xf8\x07\x01", 3), 2, 0, "too many fields"},
		"a field that is cut":             {[]byte("\x0a\x05abc"), 5, 0, "EOF"},
		"a field that is cut, inside":     {[]byte("\x0a\x02\x0a\x05"), 5, 0, "EOF"},
		"a message as a number is no one": {[]byte("\x08\x01"), 5, 1, ""},
	} {
		got, err := countFields(test.encoded, (&lifecyclev1.StatusResponse{}).ProtoReflect().Descriptor(), test.most)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %d, %v; want %d, %q", name, got, err, test.want, test.err)
		}
	}
}

// TestHugeAnswer: 4 MB of empty containers are refused, and real answers are far from the limit.
func TestHugeAnswer(t *testing.T) {
	descriptor := (&lifecyclev1.StatusResponse{}).ProtoReflect().Descriptor()
	if _, err := countFields(bytes.Repeat([]byte{0x0a, 0x00}, 2<<20), descriptor, mostFields); !errors.Is(err, errManyFields) {
		t.Errorf("got %v", err)
	}
	run := &lifecyclev1.HandlerRun{
		Handler: "preStop", Type: "exec", StartedAt: timestamppb.Now(), FinishedAt: timestamppb.Now(), Deadline: timestamppb.Now(),
		Result: "Failed", Error: "e", Output: "o", Action: "sh", Took: durationpb.New(1), DeadlineOwner: "timeoutSeconds", Attempts: 3,
	}
	response := &lifecyclev1.StatusResponse{}
	for range 200 {
		container := &lifecyclev1.ContainerStatus{Id: "c", Phase: "Running", StartHeld: true, PendingSignal: 15}
		for range 16 {
			container.Runs = append(container.Runs, run)
		}
		response.Containers = append(response.Containers, container)
	}
	encoded, err := proto.Marshal(response)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := countFields(encoded, descriptor, mostFields); err != nil {
		t.Errorf("200 containers with 16 runs each have %d fields: %v", got, err)
	}
}
