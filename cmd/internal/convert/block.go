package convert

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// defaultGracePeriod is the API's own, in seconds (core/v1
// DefaultTerminationGracePeriodSeconds).
const (
	defaultGracePeriod  = json.Number("30")
	defaultGraceSeconds = 30
)

// extensions are the fields of a handler that only the shim has: all except the actions.
var extensions = extensionsOf((&lifecyclev1.Handler{}).ProtoReflect().Descriptor().Fields())

func extensionsOf(fields protoreflect.FieldDescriptors) []string {
	var names []string
	for i := range fields.Len() {
		if field := fields.Get(i); field.Message() == nil {
			names = append(names, field.JSONName())
		}
	}
	return names
}

// block returns the annotation's value for a container's handlers, and the same value
// parsed. Findings have the field's path below the container.
func block(container, lifecycle map[string]any, grace any, limits oci.Limits) (string, *lifecyclev1.Block, []Finding) {
	tree := map[string]any{"terminationGracePeriodSeconds": graceOf(grace, limits)}
	var problems []Finding
	for _, kind := range handlerKinds {
		if lifecycle[kind] == nil {
			continue
		}
		handler, wrong := handler(container, kind, lifecycle[kind])
		tree[kind], problems = handler, append(problems, wrong...)
	}
	if lifecycle["stopSignal"] != nil {
		tree["stopSignal"] = lifecycle["stopSignal"]
	}
	if len(problems) > 0 {
		return "", nil, problems
	}
	text, err := marshal(tree)
	if err != nil {
		return "", nil, []Finding{{Field: "lifecycle", Text: err.Error()}}
	}
	parsed, wrong := oci.Parse(text, limits)
	for _, problem := range wrong {
		problems = append(problems, Finding{Field: fieldOf(problem.Path), Text: problem.Problem})
	}
	if len(problems) > 0 {
		return "", nil, problems
	}
	if text, err = marshal(canonical(parsed)); err != nil {
		return "", nil, []Finding{{Field: "lifecycle", Text: err.Error()}}
	}
	return text, parsed, nil
}

// fieldOf returns the manifest's field from which a block's field comes.
func fieldOf(path string) string {
	switch path {
	case "":
		return "lifecycle"
	case "terminationGracePeriodSeconds":
		return path // the pod's
	default:
		return "lifecycle." + path
	}
}

// graceOf returns the grace period that is in effect: the API server accepts 0 and
// negative numbers, and the kubelet's pod workers use 1 then. The default is cut to the
// operator's limit. The API server writes it into every pod, so it counts as unset in
// manifests too.
func graceOf(grace any, limits oci.Limits) any {
	switch number, ok := grace.(json.Number); {
	case grace == nil, grace == defaultGracePeriod:
		return json.Number(strconv.FormatInt(limits.GracePeriod(defaultGraceSeconds), 10))
	case ok && (number == "0" || number == "-0" || strings.HasPrefix(string(number), "-") && !strings.ContainsAny(string(number), ".eE")):
		return json.Number("1")
	default:
		return grace
	}
}

// handler returns a handler as the block holds it, with numbers for named ports. Types are
// checked later, with the whole block.
func handler(container map[string]any, kind string, from any) (any, []Finding) {
	original, ok := from.(map[string]any)
	if !ok {
		return from, nil
	}
	var problems []Finding
	copied := maps.Clone(original)
	for _, name := range extensions {
		if _, ok := copied[name]; ok {
			problems = append(problems, Finding{Field: "lifecycle." + kind + "." + name, Text: "is not a field of Kubernetes, only of the annotation, so the API server refuses it here; " +
				"write this container's annotation by hand (docs/use/handlers.md) and remove the handler from the manifest"})
			delete(copied, name)
		}
	}
	for _, action := range []string{"httpGet", "tcpSocket"} {
		fields, ok := copied[action].(map[string]any)
		if !ok {
			continue
		}
		fields = maps.Clone(fields)
		copied[action] = fields
		if name, ok := fields["port"].(string); ok {
			port, problem := resolvePort(container, name)
			if problem != "" {
				problems = append(problems, Finding{Field: "lifecycle." + kind + "." + action + ".port", Text: problem})
			}
			fields["port"] = port
		}
	}
	return copied, problems
}

// The canonical forms fix the order of the keys, so that every tool writes the same value.
type (
	blockForm struct {
		PostStart  *handlerForm `json:"postStart,omitempty"`
		PreStop    *handlerForm `json:"preStop,omitempty"`
		StopSignal string       `json:"stopSignal,omitempty"`
		Grace      int64        `json:"terminationGracePeriodSeconds"`
	}
	handlerForm struct {
		Exec      *execForm  `json:"exec,omitempty"`
		HTTPGet   *httpForm  `json:"httpGet,omitempty"`
		TCPSocket *tcpForm   `json:"tcpSocket,omitempty"`
		Sleep     *sleepForm `json:"sleep,omitempty"`
	}
	execForm struct {
		Command []string `json:"command"`
	}
	httpForm struct {
		Path    string       `json:"path"`
		Port    int32        `json:"port"`
		Host    string       `json:"host,omitempty"`
		Scheme  string       `json:"scheme"`
		Headers []headerForm `json:"httpHeaders,omitempty"`
	}
	headerForm struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	tcpForm struct {
		Port int32  `json:"port"`
		Host string `json:"host,omitempty"`
	}
	sleepForm struct {
		Seconds int64 `json:"seconds"`
	}
)

// equal reports whether two handlers do the same. Nil equals nothing, not even nil.
func (h *handlerForm) equal(other *handlerForm) bool {
	return h != nil && other != nil && reflect.DeepEqual(h, other)
}

func canonical(block *lifecyclev1.Block) blockForm {
	return blockForm{
		PostStart: canonicalHandler(block.PostStart), PreStop: canonicalHandler(block.PreStop),
		StopSignal: block.StopSignal, Grace: block.GetTerminationGracePeriodSeconds(),
	}
}

func canonicalHandler(handler *lifecyclev1.Handler) *handlerForm {
	switch {
	case handler == nil:
		return nil
	case handler.Exec != nil:
		return &handlerForm{Exec: &execForm{Command: handler.Exec.Command}}
	case handler.HttpGet != nil:
		return &handlerForm{HTTPGet: canonicalHTTP(handler.HttpGet)}
	case handler.TcpSocket != nil:
		return &handlerForm{TCPSocket: &tcpForm{Port: handler.TcpSocket.Port, Host: handler.TcpSocket.Host}}
	default:
		return &handlerForm{Sleep: &sleepForm{Seconds: handler.Sleep.GetSeconds()}}
	}
}

// canonicalHTTP sets the API's defaults (core/v1 SetDefaults_HTTPGetAction), which an
// object already has when it is admitted.
func canonicalHTTP(get *lifecyclev1.HTTPGetAction) *httpForm {
	form := &httpForm{Path: get.Path, Port: get.Port, Host: get.Host, Scheme: get.Scheme}
	if form.Path == "" {
		form.Path = "/"
	}
	if form.Scheme == "" {
		form.Scheme = "HTTP"
	}
	for _, header := range get.HttpHeaders {
		form.Headers = append(form.Headers, headerForm{Name: header.Name, Value: header.Value})
	}
	return form
}

// marshal writes JSON in one line and does not escape <, > and &.
func marshal(value any) (string, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return strings.TrimSuffix(text.String(), "\n"), err
}
