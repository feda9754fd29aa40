package parity

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	_ "github.com/containerd/cgroups/v3/cgroup1/stats" // what Stats answers
	_ "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// names replaces what differs between any two runs by a name, always the same for the same thing.
type names struct {
	pids  map[uint32]string
	times map[string]string
	// texts are pairs for a strings.Replacer.
	texts []string
}

func newNames(texts ...string) *names {
	return &names{pids: map[uint32]string{}, times: map[string]string{}, texts: texts}
}

// learn gives a process its name. Its container's second one, after a restore, gets another.
func (n *names) learn(pid uint32, name string) {
	if pid == 0 || n.pids[pid] != "" {
		return
	}
	for slices.Contains(slices.Collect(maps.Values(n.pids)), name) {
		name += "'"
	}
	n.pids[pid] = name
}

func (n *names) pid(pid uint32) string {
	switch name := n.pids[pid]; {
	case pid == 0:
		return "0"
	case name != "":
		return "<" + name + ">"
	}
	return "<another>"
}

func (n *names) time(t *timestamppb.Timestamp) string {
	if t.AsTime().IsZero() || t.AsTime().Unix() == 0 {
		return t.AsTime().String()
	}
	key := t.AsTime().String()
	if n.times[key] == "" {
		n.times[key] = fmt.Sprintf("<time %d>", len(n.times)+1)
	}
	return n.times[key]
}

// unstable is what a text has that is another at each run.
var unstable = []struct {
	what *regexp.Regexp
	name string
}{
	{regexp.MustCompile(`time="[^"]*"`), `time="…"`},
	{regexp.MustCompile(`/proc/\d+/`), "/proc/PID/"},
	{regexp.MustCompile(`runc-process\d+`), "runc-process…"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:…"},
	{regexp.MustCompile(`ctrd-checkpoint\d+`), "ctrd-checkpoint…"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "…Z"},
}

var number = regexp.MustCompile(`\b\d{3,}\b`)

func (n *names) text(text string) string {
	text = strings.NewReplacer(n.texts...).Replace(text)
	for _, u := range unstable {
		text = u.what.ReplaceAllString(text, u.name)
	}
	return number.ReplaceAllStringFunc(text, func(digits string) string {
		if pid, err := strconv.ParseUint(digits, 10, 32); err == nil && n.pids[uint32(pid)] != "" {
			return n.pid(uint32(pid))
		}
		return digits
	})
}

// err is an error's code and words.
func (n *names) err(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return "error without a code: " + n.text(err.Error())
	}
	return fmt.Sprintf("%s %q", s.Code(), n.text(s.Message()))
}

// message is every field of a message that is set, in the order of their numbers, those in Any too.
func (n *names) message(m proto.Message) string {
	if any, ok := m.(*anypb.Any); ok {
		return n.any(any)
	}
	if t, ok := m.(*timestamppb.Timestamp); ok {
		return n.time(t)
	}
	if d, ok := m.(*types.Descriptor); ok { // of content that is never the same twice
		return "<a " + d.MediaType + ">"
	}
	reflected := m.ProtoReflect()
	if measured(reflected) {
		return shape(reflected)
	}
	fields := reflected.Descriptor().Fields()
	var parts []string
	for i := range fields.Len() {
		if field := fields.Get(i); reflected.Has(field) {
			parts = append(parts, string(field.Name())+"="+n.field(field, reflected.Get(field)))
		}
	}
	sort.Strings(parts)
	if unknown := reflected.GetUnknown(); len(unknown) > 0 {
		parts = append(parts, fmt.Sprintf("unknown=%x", []byte(unknown)))
	}
	return "{" + strings.Join(parts, " ") + "}"
}

func (n *names) any(any *anypb.Any) string {
	m, err := typeurl.UnmarshalAny(any)
	if decoded, ok := m.(proto.Message); ok && err == nil {
		return any.TypeUrl + n.message(decoded)
	}
	return any.TypeUrl + " " + n.text(string(any.Value))
}

func (n *names) field(field protoreflect.FieldDescriptor, value protoreflect.Value) string {
	if field.IsMap() {
		var pairs []string
		value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
			pairs = append(pairs, key.String()+":"+n.value(field.MapValue(), value))
			return true
		})
		slices.Sort(pairs)
		return "{" + strings.Join(pairs, " ") + "}"
	}
	if !field.IsList() {
		return n.value(field, value)
	}
	var values []string
	for i := range value.List().Len() {
		values = append(values, n.value(field, value.List().Get(i)))
	}
	if field.Message() != nil && field.Message().Name() == "ProcessInfo" {
		slices.Sort(values) // in the order of the kernel's list, which is by nothing that lasts
	}
	return "[" + strings.Join(values, " ") + "]"
}

func (n *names) value(field protoreflect.FieldDescriptor, value protoreflect.Value) string {
	switch {
	case field.Kind() == protoreflect.MessageKind:
		return n.message(value.Message().Interface())
	case field.Kind() == protoreflect.EnumKind:
		return string(field.Enum().Values().ByNumber(value.Enum()).Name())
	case field.Kind() == protoreflect.StringKind:
		return strconv.Quote(n.text(value.String()))
	case field.Kind() == protoreflect.BytesKind:
		return strconv.Quote(n.text(string(value.Bytes())))
	case strings.HasSuffix(string(field.Name()), "pid"):
		return n.pid(uint32(value.Uint()))
	}
	return value.String()
}

// measured says whether a message is of a cgroup's measurements, whose values are others at each look.
func measured(m protoreflect.Message) bool {
	name := string(m.Descriptor().FullName())
	return strings.HasPrefix(name, "io.containerd.cgroups.")
}

// shape is a measurement without its values, but for the limits: they were asked for.
func shape(m protoreflect.Message) string {
	fields := m.Descriptor().Fields()
	var parts []string
	for i := range fields.Len() {
		field := fields.Get(i)
		switch name := string(field.Name()); {
		case field.IsList(): // of what devices and processors have done so far
		case field.Message() != nil && m.Has(field):
			parts = append(parts, name+shape(m.Get(field).Message()))
		case name == "limit" && m.Has(field):
			parts = append(parts, name+"="+m.Get(field).String())
		}
	}
	return "{" + strings.Join(parts, " ") + "}"
}
