package shimtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Pack encodes a runtime's options as containerd's client does.
func Pack(t testing.TB, options any) *anypb.Any {
	t.Helper()
	packed, err := typeurl.MarshalAnyToProto(options)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// Any packs a message with the prefix that anypb gives it, as other clients do.
func Any(t testing.TB, message proto.Message) *anypb.Any {
	t.Helper()
	packed, err := anypb.New(message)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// Marshal encodes a message.
func Marshal(t testing.TB, message proto.Message) []byte {
	t.Helper()
	encoded, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// InTOML packs options that a user wrote as TOML.
func InTOML(t testing.TB, body string) *anypb.Any {
	t.Helper()
	return Pack(t, &runtimeoptions.Options{ConfigBody: []byte(body)})
}

// WriteFile writes a file of its own directory, and returns its path.
func WriteFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
