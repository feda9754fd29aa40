package oci

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lifecycle-shim/lifecycle-shim/oci/bounded"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// pageExample is the lifecycle block of Kubernetes' page "Attach Handlers to
// Container Lifecycle Events", verbatim.
const pageExample = `
postStart:
  exec:
    command: ["/bin/sh", "-c", "echo Hello from the postStart handler > /usr/share/message"]
preStop:
  exec:
    command: ["/bin/sh","-c","nginx -s quit; while killall -0 nginx; do sleep 1; done"]
`

const goodHandler = `{exec: {command: [a]}}`

// TestLifecycle: docs/spec.md#cri.
func TestLifecycle(t *testing.T) {
	exec := func(words ...string) *lifecyclev1.Handler {
		return &lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{Command: words}}
	}
	for name, test := range map[string]struct {
		annotations map[string]string
		want        *Lifecycle
	}{
		"none":           {map[string]string{"other": "x"}, nil},
		"an empty block": {map[string]string{KeyLifecycle: "{}"}, nil},
		"only a signal":  {map[string]string{KeyLifecycle: "stopSignal: SIGQUIT"}, nil},
		"a pause container": {map[string]string{
			KeyLifecycle: "nonsense", criContainerType: typeSandbox,
		}, nil},
		"the page's example": {map[string]string{KeyLifecycle: pageExample}, &Lifecycle{Block: &lifecyclev1.Block{
			PostStart: exec("/bin/sh", "-c", "echo Hello from the postStart handler > /usr/share/message"),
			PreStop:   exec("/bin/sh", "-c", "nginx -s quit; while killall -0 nginx; do sleep 1; done"),
		}}},
		"single keys": {map[string]string{KeyPostStart: goodHandler, KeyPreStop: `exec: {command: [b, c]}`}, &Lifecycle{
			Block: &lifecyclev1.Block{PostStart: exec("a"), PreStop: exec("b", "c")},
		}},
		"the named key wins, whole block for whole block": {map[string]string{
			criContainerType: typeContainer, criContainerName: "web", podGracePeriod: "45",
			KeyLifecycle:                          "postStart: " + goodHandler,
			"web.lifecycle-shim.io/lifecycle":     "preStop: " + goodHandler,
			"sidecar.lifecycle-shim.io/lifecycle": "nonsense",
			"sidecar.lifecycle-shim.io/nonsense":  "nonsense",
		}, &Lifecycle{Block: &lifecyclev1.Block{PreStop: exec("a")}, CRI: true, PodGracePeriod: 45 * time.Second}},
		"everything": {map[string]string{KeyLifecycle: `
postStart: {exec: {command: [a]}, timeoutSeconds: 60, failurePolicy: Ignore, retryPeriodSeconds: 2}
preStop:
  httpGet: {path: /drain, port: 8080, scheme: HTTP, host: "", httpHeaders: [{name: X, value: y}]}
stopSignal: SIGRTMIN+3
terminationGracePeriodSeconds: 30
`}, &Lifecycle{StopSignal: 37, Block: &lifecyclev1.Block{
			PostStart: &lifecyclev1.Handler{
				Exec: &lifecyclev1.ExecAction{Command: []string{"a"}}, FailurePolicy: "Ignore",
				TimeoutSeconds: proto.Int64(60), RetryPeriodSeconds: proto.Int64(2),
			},
			PreStop: &lifecyclev1.Handler{HttpGet: &lifecyclev1.HTTPGetAction{
				Path: "/drain", Port: 8080, Scheme: "HTTP", HttpHeaders: []*lifecyclev1.HTTPHeader{{Name: "X", Value: "y"}},
			}},
			StopSignal: "SIGRTMIN+3", TerminationGracePeriodSeconds: proto.Int64(30),
		}}},
		"null is absent": {map[string]string{KeyLifecycle: "{postStart: null, preStop: {exec: {command: [a]}, sleep: null}}"}, &Lifecycle{
			Block: &lifecyclev1.Block{PreStop: exec("a")},
		}},
		"a date is a text": {map[string]string{KeyPreStop: "exec: {command: [2026-01-01]}"}, &Lifecycle{
			Block: &lifecyclev1.Block{PreStop: exec("2026-01-01")},
		}},
		"JSON as Python writes it": {map[string]string{KeyPreStop: `{"exec":{"command":["\ud83d\ude00 \\ud83d"]}}`}, &Lifecycle{
			Block: &lifecyclev1.Block{PreStop: exec(`😀 \ud83d`)},
		}},
		"JSON": {map[string]string{KeyPreStop: `{"tcpSocket":{"port":80,"host":"::1"}}`}, &Lifecycle{
			Block: &lifecyclev1.Block{PreStop: &lifecyclev1.Handler{TcpSocket: &lifecyclev1.TCPSocketAction{Port: 80, Host: "::1"}}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := (&Spec{Annotations: test.annotations}).Lifecycle()
			if err != nil {
				t.Fatal(err)
			}
			if (got == nil) != (test.want == nil) {
				t.Fatalf("got %v, want %v", got, test.want)
			}
			if got == nil {
				return
			}
			if !proto.Equal(got.Block, test.want.Block) {
				t.Errorf("got %v, want %v", got.Block, test.want.Block)
			}
			if got.CRI != test.want.CRI || got.PodGracePeriod != test.want.PodGracePeriod || got.StopSignal != test.want.StopSignal {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestInvalid: values that are not a block at all, and mistakes in the fields that
// Kubernetes does not have. The fields that it has are in kubernetesRules.
//
// See docs/spec.md#invalid.
func TestInvalid(t *testing.T) {
	deep := strings.Repeat("[", 20000) + strings.Repeat("]", 20000)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		bomb += string(rune('b'+i)) + ": &" + string(rune('b'+i)) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(rune('a'+i))+",", 9), ",") + "]\n"
	}
	for name, test := range map[string]struct {
		key, value string
		path       string // in the error
		says       string // in the error
	}{
		"empty":                     {KeyLifecycle, "", "", "is empty"},
		"spaces":                    {KeyLifecycle, " \n\t\n", "", "YAML"},
		"null":                      {KeyLifecycle, "null", "", "must be a mapping"},
		"a list":                    {KeyLifecycle, "[]", "", "must be a mapping, not a list"},
		"a string":                  {KeyLifecycle, "postStart", "", "must be a mapping, not a string"},
		"broken YAML":               {KeyLifecycle, "{", "", "is not valid YAML"},
		"broken YAML later":         {KeyLifecycle, "postStart:\n\texec: x", "", "is not valid YAML"},
		"two documents":             {KeyLifecycle, "{}\n---\n{}", "", "more than one YAML document"},
		"not UTF-8":                 {KeyLifecycle, "stopSignal: \xff", "", "UTF-8"},
		"not UTF-8, encoded":        {KeyPreStop, "exec: {command: [a, !!binary /w==]}", "preStop.exec.command[1]", "UTF-8"},
		"too long":                  {KeyLifecycle, "# " + strings.Repeat("x", bounded.Annotation.Bytes), "", "at most 65536"},
		"nested deeply":             {KeyLifecycle, deep, "", ""},
		"aliases that explode":      {KeyLifecycle, bomb, "", ""},
		"a field twice":             {KeyLifecycle, "postStart: " + goodHandler + "\npostStart: " + goodHandler, "", "already defined"},
		"keys that are not strings": {KeyPreStop, "1: 2", "preStop", "not strings"},
		"an unknown field":          {KeyLifecycle, "poststart: " + goodHandler, "poststart", "allowed: postStart, preStop"},
		"the schema's own spelling": {KeyLifecycle, "post_start: " + goodHandler, "post_start", "not a known field"},
		"null for a program":        {KeyPreStop, "exec: {command: [null]}", "preStop.exec.command[0]", "is empty; it must name a program"},
		"a time of 0":               {KeyPreStop, "{exec: {command: [a]}, timeoutSeconds: 0}", "preStop.timeoutSeconds", "1 to"},
		"a negative time":           {KeyPreStop, "{exec: {command: [a]}, timeoutSeconds: -1}", "preStop.timeoutSeconds", "1 to"},
		"a fraction":                {KeyPreStop, "{exec: {command: [a]}, timeoutSeconds: 1.5}", "preStop.timeoutSeconds", "whole number"},
		"a number in quotes":        {KeyPreStop, `{exec: {command: [a]}, timeoutSeconds: "5"}`, "preStop.timeoutSeconds", "not a string"},
		"a number beyond reason":    {KeyPreStop, "{exec: {command: [a]}, timeoutSeconds: 99999999999999999999}", "preStop.timeoutSeconds", "whole number"},
		"a retry of 0":              {KeyPreStop, "{exec: {command: [a]}, retryPeriodSeconds: 0}", "preStop.retryPeriodSeconds", "1 to"},
		"an unknown policy":         {KeyPostStart, "{exec: {command: [a]}, failurePolicy: fail}", "postStart.failurePolicy", "Fail or Ignore"},
		"an unknown output":         {KeyPreStop, "{exec: {command: [a]}, output: log}", "preStop.output", "Status or Log"},
		"an output of no process":   {KeyPreStop, "{sleep: {seconds: 1}, output: Log}", "preStop.output", "exec only"},
		"a policy for preStop":      {KeyPreStop, "{exec: {command: [a]}, failurePolicy: Fail}", "preStop.failurePolicy", "postStart only"},
		"a grace period of 0":       {KeyLifecycle, "terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds", "is 0; it must be 1 or more"},
		"an unknown key":            {domain + "/prestop", goodHandler, "", "allowed: lifecycle-shim.io/lifecycle"},
		"a misspelt Move":           {KeySidecars, "move", "", "Move or Keep is allowed"},
		"an unknown named key":      {"web." + domain + "/preStop", goodHandler, "", "it must be web.lifecycle-shim.io/lifecycle"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &Spec{Annotations: map[string]string{test.key: test.value, criContainerName: "web"}}
			_, err := spec.Lifecycle()
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, want an *InvalidError", err)
			}
			if invalid.Key != test.key || invalid.Path != test.path {
				t.Errorf("the error names %q of %q, want %q of %q: %v", invalid.Path, invalid.Key, test.path, test.key, err)
			}
			for _, part := range []string{test.key, test.path, test.says} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than a line", err)
			}
		})
	}
}

// TestTogether: docs/spec.md#key-order.
func TestTogether(t *testing.T) {
	for _, single := range []string{KeyPostStart, KeyPreStop} {
		for _, block := range []string{KeyLifecycle, "web." + domain + "/lifecycle"} {
			_, err := (&Spec{Annotations: map[string]string{
				single: goodHandler, block: "{}", criContainerName: "web",
			}}).Lifecycle()
			var invalid *InvalidError
			if !errors.As(err, &invalid) || invalid.Key != block {
				t.Errorf("%s with %s: got %v", block, single, err)
			}
		}
	}
}

// TestSidecarsKey: the key is for the tools that move handlers (FAULTS B8). The shim
// accepts it with a block and without.
func TestSidecarsKey(t *testing.T) {
	for _, value := range []string{SidecarsMove, SidecarsKeep} {
		got, err := (&Spec{Annotations: map[string]string{KeySidecars: value}}).Lifecycle()
		if got != nil || err != nil {
			t.Errorf("%s alone: got %v, %v, want no handlers", value, got, err)
		}
		got, err = (&Spec{Annotations: map[string]string{KeySidecars: value, KeyPreStop: goodHandler}}).Lifecycle()
		if err != nil || got == nil || got.Block.PreStop == nil {
			t.Errorf("%s beside a handler: got %v, %v", value, got, err)
		}
	}
}

// TestSchemaKinds fails if the schema gets a field of a kind that decode.go cannot decode.
func TestSchemaKinds(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(message protoreflect.MessageDescriptor) {
		if seen[message.FullName()] {
			return
		}
		seen[message.FullName()] = true
		for i := range message.Fields().Len() {
			field := message.Fields().Get(i)
			switch field.Kind() {
			case protoreflect.MessageKind:
				walk(field.Message())
			case protoreflect.StringKind, protoreflect.Int32Kind, protoreflect.Int64Kind:
			default:
				t.Errorf("%s is of kind %s", field.FullName(), field.Kind())
			}
			if field.IsMap() {
				t.Errorf("%s is a map", field.FullName())
			}
		}
	}
	walk((&lifecyclev1.Block{}).ProtoReflect().Descriptor())
}

// FuzzLifecycle: no value makes the parser panic or take long, and accepted values are
// within the limits.
func FuzzLifecycle(f *testing.F) {
	for _, seed := range []string{
		pageExample, "postStart: " + goodHandler, "{}", "", "a: &a [*a]", "preStop: {sleep: {seconds: 1e3}}",
		"preStop: {httpGet: {port: 80, host: '::1', path: /a?b=c}}\nstopSignal: SIGTERM", "<<: {a: b}", "!!binary aGk=", "preStop: {exec: {command: [!!binary /w==]}}",
		`{"preStop": {"exec": {"command": ["\ud83d\ude00\\ud83d", "` + "\u2028\u007f\ufeff" + `"]}}}`, "preStop: {exec: {command: [2026-01-01, !!timestamp a]}}",
	} {
		f.Add(seed, KeyLifecycle)
		f.Add(seed, KeyPreStop)
	}
	f.Fuzz(func(t *testing.T, value, key string) {
		lifecycle, err := (&Spec{Annotations: map[string]string{key: value}}).Lifecycle()
		var invalid *InvalidError
		if err != nil && !errors.As(err, &invalid) {
			t.Fatalf("%v is no *InvalidError", err)
		}
		if err != nil || lifecycle == nil {
			return
		}
		if err := checkLifecycle(lifecycle.Block); err != nil {
			t.Fatalf("accepted, and yet: %v", err)
		}
	})
}
