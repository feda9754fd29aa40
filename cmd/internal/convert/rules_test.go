package convert

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

const class = DefaultRuntimeClass

// inClass has no limits.
var inClass = Rules{RuntimeClass: class}

// fixture is a pod of which only some parts matter. Values are YAML in flow style.
type fixture struct {
	lifecycle   string // of the container web
	container   string // more fields of it, as ", a: b"
	spec        string // more fields of the pod's spec, the same
	annotations string
}

func (f fixture) yaml() string {
	annotations := ""
	if f.annotations != "" {
		annotations = ", annotations: " + f.annotations
	}
	return fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: p%s}, spec: {containers: [{name: web, lifecycle: %s%s}]%s}}\n",
		annotations, f.lifecycle, f.container, f.spec)
}

// TestBlocks: what a container's handlers become.
func TestBlocks(t *testing.T) {
	for name, test := range map[string]struct {
		fixture
		want string
	}{
		"exec": {
			fixture{lifecycle: "{postStart: {exec: {command: [a, '']}}}"},
			`{"postStart":{"exec":{"command":["a",""]}},"terminationGracePeriodSeconds":30}`,
		},
		"the order of keys is the annotation's": {
			fixture{lifecycle: "{stopSignal: SIGUSR1, preStop: {sleep: {seconds: 5}}, postStart: {exec: {command: [a]}}}", spec: ", terminationGracePeriodSeconds: 60"},
			`{"postStart":{"exec":{"command":["a"]}},"preStop":{"sleep":{"seconds":5}},"stopSignal":"SIGUSR1","terminationGracePeriodSeconds":60}`,
		},
		"httpGet's defaults are written": {
			fixture{lifecycle: "{preStop: {httpGet: {port: 80}}}"},
			`{"preStop":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"}},"terminationGracePeriodSeconds":30}`,
		},
		"empty host and headers are not": {
			fixture{lifecycle: "{preStop: {httpGet: {port: 80, host: '', httpHeaders: [], path: '', scheme: ''}}}"},
			`{"preStop":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"}},"terminationGracePeriodSeconds":30}`,
		},
		"all of httpGet": {
			fixture{lifecycle: "{preStop: {httpGet: {httpHeaders: [{value: 'y', name: X}, {name: X}], scheme: HTTPS, host: '::1', port: 443, path: '/a?b=c'}}}"},
			`{"preStop":{"httpGet":{"path":"/a?b=c","port":443,"host":"::1","scheme":"HTTPS","httpHeaders":[{"name":"X","value":"y"},{"name":"X","value":""}]}},"terminationGracePeriodSeconds":30}`,
		},
		"tcpSocket": {
			fixture{lifecycle: "{preStop: {tcpSocket: {host: localhost, port: 80}}, postStart: {tcpSocket: {port: 1, host: ''}}}"},
			`{"postStart":{"tcpSocket":{"port":1}},"preStop":{"tcpSocket":{"port":80,"host":"localhost"}},"terminationGracePeriodSeconds":30}`,
		},
		"sleep of 0": {
			fixture{lifecycle: "{preStop: {sleep: {seconds: 0}}}"},
			`{"preStop":{"sleep":{"seconds":0}},"terminationGracePeriodSeconds":30}`,
		},
		"null is absent": {
			fixture{lifecycle: "{postStart: ~, stopSignal: null, preStop: {exec: null, sleep: {seconds: 1}}}", spec: ", terminationGracePeriodSeconds: ~"},
			`{"preStop":{"sleep":{"seconds":1}},"terminationGracePeriodSeconds":30}`,
		},
		"null in a command is an empty word": {
			fixture{lifecycle: "{postStart: {exec: {command: [a, ~]}}}"},
			`{"postStart":{"exec":{"command":["a",""]}},"terminationGracePeriodSeconds":30}`,
		},
		"a grace period of ages": {
			fixture{lifecycle: "{preStop: {sleep: {seconds: 1}}}", spec: ", terminationGracePeriodSeconds: 99999999999"},
			`{"preStop":{"sleep":{"seconds":1}},"terminationGracePeriodSeconds":99999999999}`,
		},
		"a grace period of 0 is 1": {
			fixture{lifecycle: "{preStop: {sleep: {seconds: 0}}}", spec: ", terminationGracePeriodSeconds: 0"},
			`{"preStop":{"sleep":{"seconds":0}},"terminationGracePeriodSeconds":1}`,
		},
		"a negative one too": {
			fixture{lifecycle: "{preStop: {sleep: {seconds: 0}}}", spec: ", terminationGracePeriodSeconds: -7"},
			`{"preStop":{"sleep":{"seconds":0}},"terminationGracePeriodSeconds":1}`,
		},
		"a named port": {
			fixture{lifecycle: "{preStop: {httpGet: {port: http}}}", container: ", ports: [{containerPort: 1}, {name: a, containerPort: 2}, {name: http, containerPort: 8080}]"},
			`{"preStop":{"httpGet":{"path":"/","port":8080,"scheme":"HTTP"}},"terminationGracePeriodSeconds":30}`,
		},
		"a named port of tcpSocket": {
			fixture{lifecycle: "{preStop: {tcpSocket: {port: a}}}", container: ", ports: [{name: a, containerPort: 2}]"},
			`{"preStop":{"tcpSocket":{"port":2}},"terminationGracePeriodSeconds":30}`,
		},
		"characters as encoding/json writes them": {
			fixture{lifecycle: `{preStop: {exec: {command: ["\"\\/\b\f\n\r\t\x01\x1b\x7f\u0085\u00e4\u2028\u2029\ufeff\ud7ff\U0001f600<>&'"]}}}`},
			`{"preStop":{"exec":{"command":["\"\\/\b\f\n\r\t\u0001\u001b` + "\x7f\u0085ä" + `\u2028\u2029` + "\ufeff\ud7ff😀" + `<>&'"]}},"terminationGracePeriodSeconds":30}`,
		},
		"texts as the API server reads YAML": {
			fixture{lifecycle: `{preStop: {exec: {command: [2026-01-01, 12:30:45, "yes", 'true', !!str 5, "017"]}}}`},
			`{"preStop":{"exec":{"command":["2026-01-01","12:30:45","yes","true","5","017"]}},"terminationGracePeriodSeconds":30}`,
		},
		"numbers as the API server reads YAML": {
			fixture{lifecycle: "{preStop: {httpGet: {port: 0x50}}, postStart: {sleep: {seconds: 017}}}", spec: ", terminationGracePeriodSeconds: 1e2"},
			`{"postStart":{"sleep":{"seconds":15}},"preStop":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"}},"terminationGracePeriodSeconds":100}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := convertOne(t, test.yaml())
			if got := pod.Metadata.Annotations["web.lifecycle-shim.io/lifecycle"]; got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if pod.Spec.RuntimeClassName != class {
				t.Errorf("runtimeClassName is %q", pod.Spec.RuntimeClassName)
			}
		})
	}
}

// podForm is what tests look at.
type podForm struct {
	Metadata struct{ Annotations map[string]string }
	Spec     struct {
		RuntimeClassName           string
		Containers, InitContainers []struct {
			Name      string
			Lifecycle map[string]any
		}
	}
}

// convertOne converts a text that must be accepted, and holds the result to what
// is true of all results.
func convertOne(t *testing.T, text string) podForm {
	t.Helper()
	result, report := Stream([]byte(text), inClass)
	for _, refusal := range report.Refusals {
		t.Fatalf("%s\nof %s", refusal, text)
	}
	again, report := Stream(result, inClass)
	if string(again) != string(result) || report.Moved != 0 {
		t.Errorf("converted twice it is\n%s\nand not\n%s", again, result)
	}
	for _, refusal := range Validate(result, inClass).Refusals {
		t.Error(refusal)
	}
	var pod podForm
	readBack(t, result, &pod)
	return pod
}

func readBack(t *testing.T, result []byte, into any) {
	t.Helper()
	documents := split(result)
	meaning, err := documents[len(documents)-1].meaning(documents[len(documents)-1].text)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(meaning, into); err != nil {
		t.Fatal(err)
	}
}

const preStop = "{preStop: {exec: {command: [a]}}}"

// TestRefusals: each in words, with its place.
func TestRefusals(t *testing.T) {
	const sleeping = "{preStop: {sleep: {seconds: 1}}}"
	for name, test := range map[string]struct {
		fixture
		container, field, says string
	}{
		"a boolean in a command": {fixture{lifecycle: "{postStart: {exec: {command: [echo, yes]}}}"}, "web", "lifecycle.postStart.exec.command[1]", "must be a string, not a boolean"},
		"a number in a command":  {fixture{lifecycle: "{postStart: {exec: {command: [sleep, 5]}}}"}, "web", "lifecycle.postStart.exec.command[1]", "must be a string, not a number"},
		"an empty command":       {fixture{lifecycle: "{postStart: {exec: {command: []}}}"}, "web", "lifecycle.postStart.exec.command", "1 to 4096"},
		"no action":              {fixture{lifecycle: "{postStart: {}}"}, "web", "lifecycle.postStart", "exactly one of exec, httpGet, tcpSocket and sleep; it has 0"},
		"two actions":            {fixture{lifecycle: "{postStart: {sleep: {seconds: 1}, tcpSocket: {port: 1}}}"}, "web", "lifecycle.postStart", "it has 2"},
		"no mapping":             {fixture{lifecycle: "{postStart: [a]}"}, "web", "lifecycle.postStart", "must be a mapping, not a list"},
		"an unknown field":       {fixture{lifecycle: "{postStart: {exec: {command: [a], tty: true}}}"}, "web", "lifecycle.postStart.exec.tty", "not a known field"},
		"an extension": {
			fixture{lifecycle: "{postStart: {exec: {command: [a]}, timeoutSeconds: 5}}"}, "web", "lifecycle.postStart.timeoutSeconds", "write this container's annotation by hand",
		},
		"a host's name":               {fixture{lifecycle: "{postStart: {httpGet: {port: 80, host: example.com}}}"}, "web", "lifecycle.postStart.httpGet.host", "an IP address or localhost"},
		"no port":                     {fixture{lifecycle: "{postStart: {httpGet: {}}}"}, "web", "lifecycle.postStart.httpGet.port", "1 to 65535"},
		"a port's name that is not":   {fixture{lifecycle: "{preStop: {tcpSocket: {port: x}}}", container: ", ports: [{name: a, containerPort: 1}, {name: b, containerPort: 2}]"}, "web", "lifecycle.preStop.tcpSocket.port", "ports are named a, b"},
		"a port's name with no ports": {fixture{lifecycle: "{preStop: {httpGet: {port: x}}}"}, "web", "lifecycle.preStop.httpGet.port", "no port of this container has a name"},
		"digits in quotes":            {fixture{lifecycle: "{preStop: {httpGet: {port: '80'}}}"}, "web", "lifecycle.preStop.httpGet.port", "a number in quotes"},
		"an empty port":               {fixture{lifecycle: "{preStop: {httpGet: {port: ''}}}", container: ", ports: [{containerPort: 1}]"}, "web", "lifecycle.preStop.httpGet.port", `is the name ""`},
		"a port of another container": {fixture{lifecycle: "{preStop: {httpGet: {port: a}}}}, {name: x, ports: [{name: a, containerPort: 1}]"}, "web", "lifecycle.preStop.httpGet.port", "no port of this container has a name"},
		"a sleep above the grace":     {fixture{lifecycle: "{preStop: {sleep: {seconds: 31}}}"}, "web", "lifecycle.preStop.sleep.seconds", "at most terminationGracePeriodSeconds, 30"},
		"a sleep below 0":             {fixture{lifecycle: "{preStop: {sleep: {seconds: -1}}}"}, "web", "lifecycle.preStop.sleep.seconds", "is -1"},
		"a grace period in words":     {fixture{lifecycle: sleeping, spec: ", terminationGracePeriodSeconds: long"}, "web", "terminationGracePeriodSeconds", "whole number"},
		"half a grace period":         {fixture{lifecycle: sleeping, spec: ", terminationGracePeriodSeconds: 1.5"}, "web", "terminationGracePeriodSeconds", "whole number"},
		"an unknown signal":           {fixture{lifecycle: "{preStop: {sleep: {seconds: 1}}, stopSignal: TERM}"}, "web", "lifecycle.stopSignal", "such as SIGQUIT"},
		"an empty runtime class":      {fixture{lifecycle: sleeping, spec: ", runtimeClassName: ''"}, "", "spec.runtimeClassName", `is ""`},
		"a misspelt handler":          {fixture{lifecycle: "{prestop: {exec: {command: [a]}}}"}, "web", "lifecycle.prestop", "not a known field"},
		"a misspelt one beside one":   {fixture{lifecycle: "{preStop: {exec: {command: [a]}}, postStrat: {}}"}, "web", "lifecycle.postStrat", "not a known field"},
		"an init container": {
			fixture{lifecycle: "{}", spec: ", initContainers: [{name: i, lifecycle: " + preStop + "}]"}, "i", "lifecycle", "not allowed on an init container",
		},
		"an ephemeral container": {
			fixture{lifecycle: "{}", spec: ", ephemeralContainers: [{name: e, lifecycle: " + preStop + "}]"}, "e", "lifecycle", "not allowed on an ephemeral container",
		},
		"no name":             {fixture{lifecycle: "{}}, {lifecycle: " + preStop}, "", "spec.containers[1].name", "RFC 1123"},
		"a name that is none": {fixture{lifecycle: "{}}, {name: A_b, lifecycle: " + preStop}, "A_b", "name", "RFC 1123"},
		"a name twice":        {fixture{lifecycle: preStop + "}, {name: web"}, "web", "name", "more than one container"},
		"annotations that are none": {
			fixture{lifecycle: preStop, annotations: "[a]"}, "", "metadata.annotations", "must be a mapping",
		},
		"a misspelt annotation": {
			fixture{lifecycle: preStop, annotations: "{lifecycle-shim.io/prestop: x}"}, "", "metadata.annotations", "is not a known key",
		},
		"more than an annotation holds": {
			fixture{lifecycle: "{preStop: {exec: {command: [" + strings.Repeat("x", 66000) + "]}}}"}, "web", "lifecycle", "at most 65536",
		},
		"more than a pod's annotations hold": {
			fixture{lifecycle: preStop, annotations: "{a: " + strings.Repeat("x", 262100) + "}"}, "", "metadata.annotations", "at most 262144",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, form := range []string{test.yaml(), inDeployment(t, test.fixture)} {
				result, report := Stream([]byte(form), inClass)
				if len(result) > 0 {
					t.Errorf("it is converted to %s", result)
				}
				if len(report.Refusals) != 1 {
					t.Fatalf("got %v", report.Refusals)
				}
				got := report.Refusals[0]
				if got.Container != test.container || got.Field != test.field || !strings.Contains(got.Text, test.says) || !strings.HasSuffix(got.Object, "/p") {
					t.Errorf("got %+v", got)
				}
			}
		})
	}
}

// inDeployment is the fixture's pod as a Deployment's template.
func inDeployment(t *testing.T, f fixture) string {
	t.Helper()
	const pod, spec = "kind: Pod, metadata: {name: p", "spec: {"
	text := strings.Replace(f.yaml(), "apiVersion: v1, "+pod, "apiVersion: apps/v1, kind: Deployment, metadata: {name: p}, spec: {template: {metadata: {name: q", 1)
	if text = strings.TrimSpace(text) + "}}"; strings.Count(text, spec) < 2 {
		t.Fatal("the fixture is of another form")
	}
	return strings.Replace(text, "/spec/containers", "/spec/template/spec/containers", 1)
}

// TestAllRefusalsAreTold, not only the first.
func TestAllRefusalsAreTold(t *testing.T) {
	text := fixture{
		lifecycle: "{postStart: {exec: {command: [1, 2]}}, preStop: {httpGet: {port: x, scheme: FTP}}}}, {name: b, lifecycle: {preStop: {}}",
	}.yaml() + "---\n{lifecycle\n---\n" + fixture{lifecycle: "{postStart: {httpGet: {host: h}, timeoutSeconds: 0}}"}.yaml()
	result, report := Stream([]byte(text), inClass)
	var fields []string
	for _, refusal := range report.Refusals {
		fields = append(fields, refusal.Object+" "+refusal.Container+" "+refusal.Field)
	}
	want := []string{
		"Pod/p web lifecycle.preStop.httpGet.port", "Pod/p b lifecycle.preStop", "document 2  ", "Pod/p web lifecycle.postStart.timeoutSeconds",
	}
	if strings.Join(fields, "\n") != strings.Join(want, "\n") || len(result) > 0 {
		t.Errorf("got %s\nand %q", strings.Join(fields, "\n"), result)
	}
}

// TestUntouched: byte for byte, and without a word.
func TestUntouched(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":              "",
		"comments":             "# a\n---\n# b\n",
		"no handlers":          "kind:  Pod\napiVersion: v1\nspec: {containers: [ {name: a}]}",
		"an empty lifecycle":   fixture{lifecycle: "{}"}.yaml(),
		"only a signal":        fixture{lifecycle: "{stopSignal: SIGQUIT}", spec: ", runtimeClassName: x"}.yaml(),
		"null handlers":        fixture{lifecycle: "{postStart: ~, preStop: null}"}.yaml(),
		"another kind":         "kind:   ConfigMap\ndata:\n    a:  yes  # c\n    b: [1,\n  2]\n",
		"another group's Pod":  strings.Replace(fixture{lifecycle: "{}"}.yaml(), "v1", "x/v1", 1),
		"no mapping":           "[a]\n---\nb\n",
		"old line ends":        "kind: ConfigMap\r\n---\r\nkind: Secret\r\n",
		"JSON":                 `{"kind": "Pod",   "spec": {}} {"kind": "x"}` + "\n",
		"aliases elsewhere":    "kind: ConfigMap\ndata: {a: &a b, c: *a}\n",
		"an init container":    fixture{lifecycle: "{}", spec: ", initContainers: [{name: i}]"}.yaml(),
		"an end of a document": "kind: ConfigMap\n...\n---\nkind: Secret\n",
	} {
		t.Run(name, func(t *testing.T) {
			result, report := Stream([]byte(text), inClass)
			if string(result) != text || len(report.Refusals)+len(report.Warnings) > 0 {
				t.Errorf("got %q, %v, %v", result, report.Refusals, report.Warnings)
			}
		})
	}
}

// TestNeighbours: in a stream where one document changes, the others stay as they
// are, byte for byte.
func TestNeighbours(t *testing.T) {
	const before, after = "# first\nkind:   ConfigMap\r\ndata: {a:   yes}\n", "--- # last\nkind:  Secret\n\n\n# end\n"
	result, report := Stream([]byte(before+"---   \n"+fixture{lifecycle: preStop}.yaml()+after), inClass)
	if len(report.Refusals) > 0 || !strings.HasPrefix(string(result), before+"---   \n{apiVersion: v1") || !strings.HasSuffix(string(result), "\n"+after) {
		t.Errorf("got %s, %v", result, report.Refusals)
	}
}

// TestWarnings: what is done, and what is to be known of it.
func TestWarnings(t *testing.T) {
	for name, test := range map[string]struct {
		text             string
		container, says  string
		moved, untouched bool
	}{
		"a sidecar": {
			text:      fixture{lifecycle: "{}", spec: ", initContainers: [{name: s, restartPolicy: Always, lifecycle: " + preStop + "}]"}.yaml(),
			container: "s", says: "stays with the kubelet", untouched: true,
		},
		"a sidecar that is moved": {
			text: fixture{
				lifecycle: "{}", spec: ", initContainers: [{name: s, restartPolicy: Always, lifecycle: " + preStop + "}]",
				annotations: "{lifecycle-shim.io/sidecars: Move}",
			}.yaml(),
			container: "s", says: "when the sidecar is stopped, after the main containers", moved: true,
		},
		"another runtime class": {
			text: fixture{lifecycle: preStop, spec: ", runtimeClassName: nvidia"}.yaml(),
			says: `is "nvidia", not "lifecycle", so the pod is left as it is`, untouched: true,
		},
		"a kind that is not known": {
			text: "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: r}, spec: {template: {spec: {containers: [{name: a, lifecycle: " + preStop + "}]}}}}",
			says: "is taken for a pod template", moved: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			result, report := Stream([]byte(test.text), inClass)
			if len(report.Refusals) > 0 || len(report.Warnings) != 1 {
				t.Fatalf("got %v, %v", report.Refusals, report.Warnings)
			}
			if got := report.Warnings[0]; got.Container != test.container || !strings.Contains(got.String(), test.says) {
				t.Errorf("got %s", got)
			}
			if (report.Moved == 1) != test.moved || (string(result) == test.text) != test.untouched {
				t.Errorf("%d are moved: %s", report.Moved, result)
			}
		})
	}
}

// TestLeftovers: what stays of a lifecycle.
func TestLeftovers(t *testing.T) {
	for lifecycle, want := range map[string]string{
		"{postStart: {exec: {command: [a]}}}":                      "null",
		"{preStop: {exec: {command: [a]}}, postStart: ~}":          "null",
		"{preStop: {exec: {command: [a]}}, stopSignal: ~}":         "null",
		"{preStop: {exec: {command: [a]}}, stopSignal: SIGQUIT}":   `{"stopSignal":"SIGQUIT"}`,
		"{postStart: ~, preStop: {sleep: {}}, stopSignal: SIGHUP}": `{"stopSignal":"SIGHUP"}`,
	} {
		pod := convertOne(t, fixture{lifecycle: lifecycle}.yaml())
		if got, _ := json.Marshal(pod.Spec.Containers[0].Lifecycle); string(got) != want {
			t.Errorf("of %s there is %s, want %s", lifecycle, got, want)
		}
	}
}

// TestAliases: what two containers share becomes what each of them has.
func TestAliases(t *testing.T) {
	for name, text := range map[string]string{
		"a lifecycle": `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - {name: a, lifecycle: &shared {preStop: {sleep: {seconds: 1}}, stopSignal: SIGQUIT}}
  - {name: b, lifecycle: *shared}
`, "a handler": `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - {name: a, lifecycle: {preStop: &shared {sleep: {seconds: 1}}, stopSignal: SIGQUIT}}
  - {name: b, lifecycle: {stopSignal: SIGQUIT, preStop: *shared}}
`, "a merged container": `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - &shared
    name: a
    lifecycle: {preStop: {sleep: {seconds: 1}}, stopSignal: SIGQUIT}
  - <<: *shared
    name: b
`, "merged from two": `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - name: a
    lifecycle: {<<: [&shared {preStop: {sleep: {seconds: 1}}}, &signal {stopSignal: SIGQUIT, preStop: {sleep: {seconds: 9}}}]}
  - {name: b, lifecycle: {<<: [*shared, *signal]}}
`, "a merge after, which kubectl lets win": `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - {name: a, lifecycle: &shared {preStop: {sleep: {seconds: 1}}, stopSignal: SIGQUIT}}
  - {name: b, lifecycle: {stopSignal: SIGHUP, <<: *shared}}
`,
	} {
		t.Run(name, func(t *testing.T) {
			pod := convertOne(t, text)
			for i, container := range []string{"a", "b"} {
				const want = `{"preStop":{"sleep":{"seconds":1}},"stopSignal":"SIGQUIT","terminationGracePeriodSeconds":30}`
				if got := pod.Metadata.Annotations[oci.NamedKey(container)]; got != want {
					t.Errorf("%s has %s", container, got)
				}
				if got := pod.Spec.Containers[i]; got.Name != container || len(got.Lifecycle) != 1 || got.Lifecycle["stopSignal"] != "SIGQUIT" {
					t.Errorf("%s keeps %v", container, got)
				}
			}
		})
	}
}

// TestJSONStaysJSON, in its own lines, order and numbers.
func TestJSONStaysJSON(t *testing.T) {
	const object = `{"kind":"Pod","x":[1e3,1.50,-0,true,null,"<\u00e4😀>"],"apiVersion":"v1","spec":{"containers":[{"name":"web","lifecycle":{"preStop":{"sleep":{"seconds":1}}},"z":{}}]}}`
	const want = `{"kind":"Pod","x":[1e3,1.50,-0,true,null,"<\u00e4😀>"],"apiVersion":"v1","metadata":{"annotations":{"web.lifecycle-shim.io/lifecycle":` +
		`"{\"preStop\":{\"sleep\":{\"seconds\":1}},\"terminationGracePeriodSeconds\":30}"}},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"web","z":{}}]}}`
	for _, indent := range []string{"", "  ", "    ", "\t"} {
		in, out := []byte(object), []byte(want)
		if indent != "" {
			in, out = indented(t, object, indent), indented(t, want, indent)
		}
		in, out = append(in, '\n'), append(out, '\n')
		result, report := Stream(append(in, in...), inClass)
		if string(result) != string(append(out, out...)) || len(report.Refusals) > 0 {
			t.Errorf("got %s, %v, want twice %s", result, report.Refusals, out)
		}
	}
}
