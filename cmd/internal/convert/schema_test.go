package convert

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// TestSchema: no field of the schema is lost in the canonical form. One that is new
// has to be thought about: is it Kubernetes', or an extension?
func TestSchema(t *testing.T) {
	for _, action := range []string{
		`"exec":{"command":["a"]}`, `"httpGet":{"path":"/a","port":1,"host":"::1","scheme":"HTTPS","httpHeaders":[{"name":"X","value":"y"}]}`,
		`"tcpSocket":{"port":1,"host":"::1"}`, `"sleep":{"seconds":1}`,
	} {
		text := `{"postStart":{` + action + `},"preStop":{` + action + `},"stopSignal":"SIGQUIT","terminationGracePeriodSeconds":7}`
		want := &lifecyclev1.Block{}
		if err := protojson.Unmarshal([]byte(text), want); err != nil {
			t.Fatal(err)
		}
		wantAllSet(t, want.ProtoReflect(), "")
		written, err := marshal(canonical(want))
		if err != nil || written != text {
			t.Errorf("%s becomes %s, %v", text, written, err)
		}
		if got, problems := oci.Parse(written, oci.Limits{}); len(problems) > 0 || !proto.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, problems, want)
		}
	}
	if !slices.Contains(extensions, "timeoutSeconds") || slices.Contains(extensions, "exec") {
		t.Errorf("the extensions are %q", extensions)
	}
}

// wantAllSet: of a handler one action, and no extension; all fields of all else.
func wantAllSet(t *testing.T, message protoreflect.Message, path string) {
	t.Helper()
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		_, isHandler := message.Interface().(*lifecyclev1.Handler)
		if !message.Has(field) {
			if !isHandler && !slices.Contains([]string{"preStart", "onExit"}, field.JSONName()) { // no manifest has these
				t.Errorf("%s.%s is not in this test", path, field.JSONName())
			}
			continue
		}
		if field.Message() == nil {
			continue
		}
		next := strings.TrimPrefix(path+"."+field.JSONName(), ".")
		if field.IsList() {
			wantAllSet(t, message.Get(field).List().Get(0).Message(), next)
			continue
		}
		wantAllSet(t, message.Get(field).Message(), next)
	}
}
