package oci

import (
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// extensions are the fields that Kubernetes does not have (docs/spec.md#block).
var extensions = []string{
	"terminationGracePeriodSeconds", "preStart", "onExit",
	"postStart.timeoutSeconds", "postStart.failurePolicy", "postStart.retryPeriodSeconds", "postStart.output",
	"preStop.timeoutSeconds", "preStop.failurePolicy", "preStop.retryPeriodSeconds", "preStop.output",
}

// notTaken are Kubernetes' fields that the schema lacks, with the reason. A block with one is
// refused.
var notTaken = map[string]string{
	"protocol": "for probes (h2c), alpha in 1.37: the API server drops it, and the kubelet's handlers never look at it",
}

// TestFieldsOfKubernetes fails if a new release of Kubernetes, or our schema, has a field that
// the other one lacks.
func TestFieldsOfKubernetes(t *testing.T) {
	used := map[string]bool{}
	compareFields(t, "", reflect.TypeFor[corev1.Lifecycle](), (&lifecyclev1.Block{}).ProtoReflect().Descriptor(), used)
	for _, path := range extensions {
		if !used[path] {
			t.Errorf("%s is no field of the schema's, or one of Kubernetes' now", path)
		}
	}
	for name := range notTaken {
		if !used[name] {
			t.Errorf("%s is no field of Kubernetes', or one of the schema's now", name)
		}
	}
}

func compareFields(t *testing.T, path string, theirs reflect.Type, ours protoreflect.MessageDescriptor, used map[string]bool) {
	known := map[string]bool{}
	for _, field := range reflect.VisibleFields(theirs) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		known[name] = true
		mine := ours.Fields().ByJSONName(name)
		if mine == nil {
			if used[name] = true; notTaken[name] == "" {
				t.Errorf("%s is not in our schema", join(path, name))
			}
			continue
		}
		compareKind(t, join(path, name), field.Type, mine, used)
	}
	for i := range ours.Fields().Len() {
		name := ours.Fields().Get(i).JSONName()
		if known[name] {
			continue
		}
		if used[join(path, name)] = true; !slices.Contains(extensions, join(path, name)) {
			t.Errorf("%s is no field of Kubernetes', and not among the extensions", join(path, name))
		}
	}
}

func compareKind(t *testing.T, path string, theirs reflect.Type, ours protoreflect.FieldDescriptor, used map[string]bool) {
	list := theirs.Kind() == reflect.Slice
	if list || theirs.Kind() == reflect.Pointer {
		theirs = theirs.Elem()
	}
	want := map[reflect.Kind]protoreflect.Kind{
		reflect.String: protoreflect.StringKind, reflect.Int32: protoreflect.Int32Kind,
		reflect.Int64: protoreflect.Int64Kind, reflect.Struct: protoreflect.MessageKind,
	}[theirs.Kind()]
	if theirs == reflect.TypeFor[intstr.IntOrString]() {
		want = protoreflect.Int32Kind // docs/spec.md#limits: numbers only
	}
	switch {
	case ours.IsList() != list || ours.Kind() != want:
		t.Errorf("%s is a %s in our schema (list: %t), and a %s in Kubernetes (list: %t)", path, ours.Kind(), ours.IsList(), theirs, list)
	case want == protoreflect.MessageKind:
		compareFields(t, path, theirs, ours.Message(), used)
	}
}

// TestStopSignalsOfKubernetes: stopSignals are exactly the constants of the API.
func TestStopSignalsOfKubernetes(t *testing.T) {
	constant := regexp.MustCompile(`(?m)^\s+SIG\w+\s+Signal = "(\S+)"$`)
	missing := map[string]bool{}
	for name := range stopSignals {
		missing[name] = true
	}
	for _, match := range constant.FindAllStringSubmatch(source(t, "k8s.io/api/core/v1", "types.go"), -1) {
		if _, ok := stopSignals[match[1]]; !ok {
			t.Errorf("%s is new in Kubernetes", match[1])
		}
		delete(missing, match[1])
	}
	for name := range missing {
		t.Errorf("%s is not in Kubernetes", name)
	}
}

// TestBlocksOfKubernetes: blocks that are written from Kubernetes' types are read with the same
// values.
func TestBlocksOfKubernetes(t *testing.T) {
	everything := slices.Concat(awkward, inJSON)
	for name, form := range map[string]struct {
		texts   []string
		marshal func(any) ([]byte, error)
		read    reader
	}{
		"YAML":          {awkward, yaml.Marshal, readYAML},
		"JSON":          {everything, json.Marshal, json.Unmarshal},
		"JSON in lines": {everything, func(v any) ([]byte, error) { return json.MarshalIndent(v, "", "\t") }, json.Unmarshal},
		"JSON in ASCII": {everything, marshalASCII, json.Unmarshal},
		"JSON as it is": {everything, marshalRaw, json.Unmarshal},
	} {
		t.Run(name, func(t *testing.T) {
			g := generator{rand.New(rand.NewPCG(1, 2)), form.texts}
			blocks := 500
			if testing.Short() {
				blocks = 50
			}
			for range blocks {
				block := g.lifecycle()
				text, err := form.marshal(block)
				if err != nil {
					t.Fatal(err)
				}
				if read := checkReadAlike(t, text, form.read); !reflect.DeepEqual(read, block) {
					t.Errorf("Kubernetes reads %v, written was %v", read, block)
				}
				if t.Failed() {
					t.FailNow() // one failure is enough to read
				}
			}
		})
	}
}

// reader reads a text like Kubernetes.
type reader func(text []byte, into any) error

func readYAML(text []byte, into any) error { return yaml.UnmarshalStrict(text, into) }

// checkReadAlike fails unless we read the same value as Kubernetes, which it returns.
func checkReadAlike(t *testing.T, text []byte, read reader) *corev1.Lifecycle {
	t.Helper()
	theirs := &corev1.Lifecycle{}
	if err := read(text, theirs); err != nil {
		t.Fatalf("Kubernetes refuses %s: %v", text, err)
	}
	ours, err := readOurs(text)
	if err != nil {
		t.Fatalf("we refuse %s: %v", text, err)
	}
	if want := inOurTypes(t, theirs); !proto.Equal(ours, want) {
		t.Errorf("we read %v, Kubernetes %v, in %s", ours, want, text)
	}
	return theirs
}

func readOurs(text []byte) (*lifecyclev1.Block, error) {
	block := &lifecyclev1.Block{}
	return block, (&Spec{Annotations: map[string]string{KeyLifecycle: string(text)}}).decode(KeyLifecycle, "", block)
}

// inOurTypes converts by way of JSON, which protojson reads.
func inOurTypes(t *testing.T, theirs *corev1.Lifecycle) *lifecyclev1.Block {
	t.Helper()
	text, err := json.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	ours := &lifecyclev1.Block{}
	if err := protojson.Unmarshal(text, ours); err != nil {
		t.Fatal(err)
	}
	return ours
}

var (
	// awkward texts have a meaning in YAML 1.1, YAML 1.2, JSON or on a terminal.
	awkward = []string{
		"", " ", "  a  ", "a", "/bin/sh", "-c", "--", "-", "- a", "?", "? a", ":", "a: b", ":a", "a:", "#", "a #b", "a#b", ",", "a, b",
		"[", "]", "[a]", "{", "}", "{a: b}", "&", "&a", "*", "*a", "!", "!a", "!!str a", "|", "|-", ">", ">-", "@", "@a", "`", "`a`", "%", "%a",
		"'", "''", "it's", `"`, `""`, `"a"`, `\`, `\\`, `\n`, `\"`, `\u0041`, `\ud83d\ude00`, "$", "$(a)", "${a}", "=", "<<", "---", "...",
		"y", "Y", "n", "N", "yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF",
		"true", "True", "TRUE", "false", "False", "FALSE", "~", "null", "Null", "NULL", "nil", "none",
		"0", "1", "-1", "+1", "01", "017", "08", "0o17", "0O17", "0x1F", "0b101", "1_000", "1__0", "_1", "1e3", "1E3", "1e+3", "1.5", "1.", ".5", "-.5",
		".inf", "-.Inf", ".nan", ".NaN", "1:30", "12:30:45", "190:20:30.15", "9223372036854775807", "9223372036854775808", "1e400",
		"2026-01-01", "2026-1-1", "2026-01-01T00:00:00Z", "2026-01-01 00:00:00", "2026-01-01t00:00:00.5+01:00",
		"a\nb", "a\n", "\na", "\n", "a\n\nb", "  a\n b\n", "a\tb", "\t", "\ta", "a\r\nb", "\r", "a \nb", "#!/bin/sh\nset -e\necho \"$1\" # x\n",
		"größe", "大小", "😀", "👩‍👩‍👧", "e\u0301", "\u00a0", "\u2028", "\u2029", "\u200b", "\ufffd", "\U0010fffd",
		strings.Repeat("long ", 60), strings.Repeat("x", 300),
	}
	// inJSON has texts that Kubernetes' YAML library refuses to write, or writes as a space.
	inJSON = []string{"\u0001", "\u001b[31m", "\b", "\f", "\v", "\u007f", "\u0080", "\u0085", "\u009f", "\ufeff", "\uffff"}
	paths  = []string{
		"", "/", "/a", "a", "/a?b=c", "/a?b=c&d=%20#e", "?a", "#a", "//a", "/a b", "/größe", "/😀", "/a:b", "y", "no", "0o17", "1e3", "2026-01-01", "~", "null",
		"/'", `/"`, `/\`, "/[a]", "/{a}", "/a, b", "/a: b", "/a #b", "/*", "/\u00a0", "*", "&a", "!a", "-", "/%e2%82%ac",
	}
	addresses   = []string{"", "localhost", "127.0.0.1", "10.0.0.1", "::1", "::", "fd00::1", "::ffff:10.0.0.1", "1::2:3"}
	headerNames = []string{"X", "X-Y", "Host", "Accept", "y", "no", "on", "null", "true", "0o17", "1e3", "1-000", "2026-01-01", "0x1F", "-", "--", "0"}
)

// TestTextsThatAreReadAlike: texts in which the versions of YAML might differ, but do not.
func TestTextsThatAreReadAlike(t *testing.T) {
	for _, text := range []string{
		pageExample,
		word("2026-01-01"), word("2026-01-01T00:00:00Z"), word("!!timestamp 2026-01-01"), word("1:30"), word("190:20:30.15"),
		word("="), word("'y'"), word(`"no"`), word("!!str 5"), word("!!binary aGk="), word("!own a"), word(`"\x41\u00e4\U0001F600\e\_\N"`), word("\"a\u2028b \u0085c\""),
		seconds("017"), seconds("0o17"), seconds("1_000"), seconds("0x1F"), seconds("0b11"), seconds("+5"), seconds("-0"), seconds("!!int '5'"),
		seconds("~"), seconds(""), "preStop:", "preStop: {httpGet: {port: 0x50}}", "preStop: {sleep: {seconds: 1}}\n...\n",
		seconds("1e3"), seconds("5.0"), seconds("-0.0"), seconds("08"), "preStop: {httpGet: {port: 80.0}}", word("a, ~"), word("a, null"),
		"preStop: {httpGet: {port: 80, httpHeaders: [{name: 2026-01-01, value: 12:30:45}]}}",
		"postStart: {sleep: &a {seconds: 1}}\npreStop: {sleep: *a}", "preStop: {sleep: {<<: {seconds: 1}}}",
		"preStop:\n  exec:\n    command:\n    - sh\n    - -c\n    - |\n      set -e\n\n      echo a  # b\n",
		"preStop:\n  exec:\n    command: [sh, -c, a\n      b, \"a\\\n        b\"]\n", "preStop:\n  exec:\n    command:\n    - sh\n    - >+\n      a\n\n",
		"\ufeffpreStop: {sleep: {seconds: 1}}", "preStop: {sleep: {seconds: 1}}\r\nstopSignal: SIGQUIT\r\n", "# a\n---\nstopSignal: SIGQUIT # b\n",
	} {
		checkReadAlike(t, []byte(text), readYAML)
	}
}

// word and seconds are blocks with one value.
func word(text string) string { return "preStop: {exec: {command: [" + text + "]}}" }

func seconds(text string) string { return "preStop: {sleep: {seconds: " + text + "}}" }

// TestTextsThatAreReadOtherwise: every known difference to Kubernetes' YAML library, with its
// reason. The library reads YAML 1.1, and uses the type that is wanted; kubectl does not, and
// sends values that the API server then refuses.
func TestTextsThatAreReadOtherwise(t *testing.T) {
	const (
		booleans = "y, no and on are booleans in YAML 1.1 only; an author who writes them means the word (docs/understand/decisions.md)"
		quotes   = "what is no text is not made one: 1_000 would be 1000; kubectl sends a number, which the API server refuses"
		emptys   = "a key that asks for nothing is a mistake"
	)
	for _, test := range []struct {
		text         string
		theirs, ours string // an unambiguous text with the same value; empty if the text is refused
		why          string
	}{
		{word("y"), word(`"true"`), word(`"y"`), booleans},
		{word("Y"), word(`"true"`), word(`"Y"`), booleans},
		{word("no"), word(`"false"`), word(`"no"`), booleans},
		{word("On"), word(`"true"`), word(`"On"`), booleans},
		{word("OFF"), word(`"false"`), word(`"OFF"`), booleans},
		{
			"preStop: {httpGet: {port: 80, httpHeaders: [{name: n, value: yes}]}}",
			"preStop: {httpGet: {port: 80, httpHeaders: [{name: 'false', value: 'true'}]}}",
			"preStop: {httpGet: {port: 80, httpHeaders: [{name: 'n', value: 'yes'}]}}", booleans,
		},
		{"%YAML 1.1\n---\n" + word("y"), word(`"true"`), word(`"y"`), booleans},
		{word("true"), word(`"true"`), "", quotes},
		{word("5"), word(`"5"`), "", quotes},
		{word("1_000"), word(`"1000"`), "", quotes},
		{word("0o17"), word(`"15"`), "", quotes},
		{word("1e3"), word(`"1000"`), "", quotes},
		{word(".inf"), word(`"+Inf"`), "", quotes},
		{"", "{}", "", emptys},
		{"# a", "{}", "", emptys},
		{"null", "{}", "", emptys},
		{"{}\n---\n{}", "{}", "", "a second document is not read by Kubernetes' library; who wrote it expects something of it"},
		{"prestop: {sleep: {seconds: 1}}", seconds("1"), "", "encoding/json takes names in any case; the API server does not"},
	} {
		var theirs corev1.Lifecycle
		err := readYAML([]byte(test.text), &theirs)
		checkReading(t, "Kubernetes", test.text, test.theirs, inOurTypes(t, &theirs), err)
		ours, err := readOurs([]byte(test.text))
		checkReading(t, "here", test.text, test.ours, ours, err)
		if test.theirs == test.ours || test.why == "" {
			t.Errorf("%q is no difference, or has no reason", test.text)
		}
	}
}

func checkReading(t *testing.T, where, text, want string, got *lifecyclev1.Block, err error) {
	t.Helper()
	if want == "" {
		if err == nil {
			t.Errorf("%s, %q is %v; want it to be refused", where, text, got)
		}
		return
	}
	expected, wantErr := readOurs([]byte(want))
	if err != nil || wantErr != nil || !proto.Equal(got, expected) {
		t.Errorf("%s, %q is %v (%v), want %v (%v)", where, text, got, err, expected, wantErr)
	}
}

// TestKubernetesStaysOutOfTheShim: each pod of a node has a shim, so everything that the shim
// links is in memory once per pod. Kubernetes' modules and the converter are for lifecyclectl and
// for tests. Templates are excluded too: they call methods by names that are known only at run
// time, so the linker keeps every method of every type.
func TestKubernetesStaysOutOfTheShim(t *testing.T) {
	const ours = "github.com/lifecycle-shim/lifecycle-shim/"
	for _, binary := range []string{"containerd-shim-lifecycle-v2", "lifecycle-hookexec"} {
		deps, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", "seccomp netgo osusergo grpcnotrace", "../cmd/"+binary).Output()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(deps), ours+"hookexec/wire\n") {
			t.Errorf("%s does not have our packages: what is looked at?", binary)
		}
		for pkg := range strings.Lines(string(deps)) {
			for _, banned := range []string{"k8s.io/", "sigs.k8s.io/", "gopkg.in/evanphx/json-patch", ours + "cmd/internal/convert", "text/template", "html/template"} {
				if strings.HasPrefix(pkg, banned) {
					t.Errorf("%s links %s", binary, pkg)
				}
			}
		}
	}
}
