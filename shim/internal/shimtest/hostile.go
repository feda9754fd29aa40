package shimtest

import (
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// Hostile returns text that no answer may hold: too long, and not UTF-8.
func Hostile(size int) string {
	return "OCI runtime create failed: " + strings.Repeat("\x00\xff<", size/3) + ": the cause"
}

// WantBounded checks that ttrpc can carry an error.
func WantBounded(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	text := status.Convert(err).Message()
	if len(text) > shorten.MaxError || !utf8.ValidString(text) {
		t.Errorf("%d bytes, valid UTF-8: %t", len(text), utf8.ValidString(text))
	}
}
