package convert

import (
	"bytes"
	"encoding/json"
	"testing"
)

func indented(t *testing.T, text, indent string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, []byte(text), "", indent); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
