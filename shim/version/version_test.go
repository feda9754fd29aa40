package version

import (
	"bytes"
	"testing"
)

func TestAnswer(t *testing.T) {
	for _, args := range [][]string{{"/a/shim", "-v"}, {"shim", "-version"}, {"shim", "--version"}} {
		var out bytes.Buffer
		if !Answer(args, &out) || out.String() != "shim 0.0.0-dev\n" {
			t.Errorf("%q is answered with %q", args, out.String())
		}
	}
	for _, args := range [][]string{{"shim"}, {"shim", "start"}, {"shim", "-v", "start"}, {"shim", "-namespace", "n", "start"}} {
		var out bytes.Buffer
		if Answer(args, &out) || out.Len() > 0 {
			t.Errorf("%q is answered with %q", args, out.String())
		}
	}
}
