package oci

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// problemsOf returns the mistakes in a block, as path and problem.
func problemsOf(t *testing.T, key, value string) []string {
	t.Helper()
	var all []string
	spec := &Spec{Annotations: map[string]string{key: value}}
	for _, problem := range spec.Problems(Limits{}) {
		if problem.Key != key {
			t.Errorf("%v is of another key", problem)
		}
		all = append(all, strings.TrimSpace(problem.Path+" "+problem.Problem))
	}
	if _, err := spec.Lifecycle(); (err != nil) != (len(all) > 0) || err != nil && !strings.HasSuffix(err.Error(), all[0]) {
		t.Errorf("%v is not the first of %q", err, all)
	}
	return all
}

// TestBoundaries: the last accepted value and the first refused one.
func TestBoundaries(t *testing.T) {
	const actions = "preStop must have exactly one of exec, httpGet, tcpSocket and sleep; it has "
	for value, want := range map[string]string{
		"preStop: {sleep: {}, timeoutSeconds: 1}":                          "",
		"preStop: {sleep: {}, timeoutSeconds: 2147483647}":                 "",
		"preStop: {sleep: {}, timeoutSeconds: 0}":                          "preStop.timeoutSeconds is 0; it must be 1 to 2147483647",
		"preStop: {sleep: {}, timeoutSeconds: 2147483648}":                 "preStop.timeoutSeconds is 2147483648; it must be 1 to 2147483647",
		"preStop: {sleep: {}, retryPeriodSeconds: 2147483648}":             "preStop.retryPeriodSeconds is 2147483648; it must be 1 to 2147483647",
		"terminationGracePeriodSeconds: 1":                                 "",
		"terminationGracePeriodSeconds: 9223372036854775807":               "",
		"terminationGracePeriodSeconds: 9223372036854775808":               "terminationGracePeriodSeconds must be a whole number of 64 bits; it is read as 9223372036854775808",
		"terminationGracePeriodSeconds: 9007199254740992.0":                "",
		"terminationGracePeriodSeconds: 9007199254740994.0":                "terminationGracePeriodSeconds must be a whole number of 64 bits; it is read as 9.007199254740994e+15",
		"terminationGracePeriodSeconds: -9007199254740992.0":               "terminationGracePeriodSeconds is -9007199254740992; it must be 1 or more",
		"terminationGracePeriodSeconds: .inf":                              "terminationGracePeriodSeconds must be a whole number of 64 bits; it is read as +Inf",
		"terminationGracePeriodSeconds: .nan":                              "terminationGracePeriodSeconds must be a whole number of 64 bits; it is read as NaN",
		"terminationGracePeriodSeconds: [1]":                               "terminationGracePeriodSeconds must be a whole number, not a list",
		"terminationGracePeriodSeconds: {a: 1}":                            "terminationGracePeriodSeconds must be a whole number, not a mapping",
		"terminationGracePeriodSeconds: !!int x":                           `terminationGracePeriodSeconds must be a whole number of 64 bits; "x" is not one`,
		`{"terminationGracePeriodSeconds": 1e400}`:                         `terminationGracePeriodSeconds must be a whole number of 64 bits; "1e400" is not one`,
		`{"stopSignal": 1e400}`:                                            `stopSignal is not valid YAML: yaml: cannot decode !!str ` + "`1e400` as a !!float",
		"preStop: {httpGet: {port: 2147483648}}":                           "preStop.httpGet.port must be a whole number of 32 bits; it is read as 2147483648",
		"preStop: {httpGet: {port: -2147483649}}":                          "preStop.httpGet.port must be a whole number of 32 bits; it is read as -2147483649",
		"preStop: {httpGet: {port: 2147483647}}":                           "preStop.httpGet.port is 2147483647; a number from 1 to 65535 is allowed",
		"preStop: {httpGet: {port: a}}":                                    `preStop.httpGet.port is the text "a"; a number from 1 to 65535 is allowed, without quotes (names are resolved by lifecyclectl and the admission policy)`,
		"preStop: {sleep: {seconds: a}}":                                   "preStop.sleep.seconds must be a whole number, not a string",
		"preStop: {sleep: {seconds: 5}}\nterminationGracePeriodSeconds: 5": "",
		"preStop: {sleep: {seconds: 6}}\nterminationGracePeriodSeconds: 5": "preStop.sleep.seconds is 6; at most terminationGracePeriodSeconds, 5, is allowed",
		"preStop: {sleep: {seconds: 1}}\nterminationGracePeriodSeconds: 1": "",
		"preStop: {sleep: {seconds: 2}}\nterminationGracePeriodSeconds: 1": "preStop.sleep.seconds is 2; at most terminationGracePeriodSeconds, 1, is allowed",
		"preStop: {httpGet: {port: 1, httpHeaders: [{value: b}]}}":         "preStop.httpGet.httpHeaders has a header whose name is missing or empty, which is not an HTTP token",
		"preStop: [a, b]": "preStop must be a mapping, not a list",
		"terminationGracePeriodSeconds: !!null [1]":                               "terminationGracePeriodSeconds must be a whole number, not a list",
		"? !!str [a]\n: b":                                                        "must be a mapping, not a mapping with keys that are not strings",
		"postStart: {}\npreStop: {sleep: {}}":                                     strings.Replace(actions, "preStop", "postStart", 1) + "0",
		"preStop: {exec: {command: [a]}, sleep: {}}":                              actions + "2",
		"preStop: {exec: {command: [\"\"]}}":                                      "preStop.exec.command[0] is empty; it must name a program",
		"preStop: {exec: {command: [\"\\0\"]}}":                                   "preStop.exec.command has a word with a NUL character; a program's arguments cannot contain one",
		"preStop: {exec: {command: [a, \"b\\0\"]}}":                               "preStop.exec.command has a word with a NUL character; a program's arguments cannot contain one",
		"preStop: {httpGet: {port: 1, path: 'a:b'}}":                              `preStop.httpGet.path is "a:b", which is read as a URL of scheme "a"; begin it with a slash`,
		"preStop: {httpGet: {port: 1, path: 'a://b'}}":                            "",
		"preStop: {httpGet: {port: 1, httpHeaders: [{name: a, value: \"\\r\"}]}}": `preStop.httpGet.httpHeaders has a value for "a" with control characters`,
		"preStart: {httpGet: {port: 1}}":                                          "preStart may be exec or sleep only: nothing in the container listens before the entrypoint runs",
		"preStart: {tcpSocket: {port: 1}}":                                        "preStart may be exec or sleep only: nothing in the container listens before the entrypoint runs",
		"preStart: {sleep: {}, failurePolicy: Ignore}":                            "",
		"onExit: {sleep: {}, failurePolicy: Ignore}":                              "onExit.failurePolicy is for preStart and postStart only: an onExit runs after the container has exited",
		"onExit: {httpGet: {port: 1}}":                                            "",
		"postStart: {exec: {command: [a]}, output: Status}":                       "",
		"postStart: {exec: {command: [a]}, output: Log, failurePolicy: Fail}":     "",
		"stopSignal: SIGRTMIN":                                                    "",
		"stopSignal: SIG":                                                         `stopSignal is "SIG"; a signal's name is allowed, such as SIGQUIT or SIGRTMIN+3`,
		"stopSignal: SIGquit":                                                     `stopSignal is "SIGquit"; a signal's name is allowed, such as SIGQUIT or SIGRTMIN+3`,
		"stopSignal: SIG-1":                                                       `stopSignal is "SIG-1"; a signal's name is allowed, such as SIGQUIT or SIGRTMIN+3`,
		"1: a":                                                                    "must be a mapping, not a mapping with keys that are not strings",
		"? [a]\n: b":                                                              "must be a mapping, not a mapping with keys that are not strings",
		"2026-01-01: a":                                                           "2026-01-01 is not a known field; allowed: postStart, preStop, stopSignal, terminationGracePeriodSeconds, preStart, onExit",
		"preStop: {sleep: {}, a b: c}":                                            `preStop."a b" is not a known field; allowed: exec, httpGet, tcpSocket, sleep, timeoutSeconds, failurePolicy, retryPeriodSeconds, output`,
		"preStop: {exec: {command: [true]}}":                                      "preStop.exec.command[0] must be a string, not a boolean (put it in quotes)",
		"preStop: {exec: {command: [a, {b: c}, [d], 1.5, 1]}}": "preStop.exec.command[1] must be a string, not a mapping (put it in quotes)\npreStop.exec.command[2] must be a string, not a list (put it in quotes)\n" +
			"preStop.exec.command[3] must be a string, not a number (put it in quotes)\npreStop.exec.command[4] must be a string, not a number (put it in quotes)",
	} {
		if got := strings.Join(problemsOf(t, KeyLifecycle, value), "\n"); got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", value, got, want)
		}
	}
}

// TestFirstMistakeIsTheSame for every order in which a tool writes the fields.
func TestFirstMistakeIsTheSame(t *testing.T) {
	for _, value := range []string{"{a: 1, b: 1, c: 1}", "{c: 1, b: 1, a: 1}", `{"b": 1, "c": 1, "a": 1}`} {
		for i, problem := range problemsOf(t, KeyLifecycle, value) {
			if want := []string{"a is ", "b is ", "c is "}[i]; !strings.HasPrefix(problem, want) {
				t.Errorf("%s: problem %d is %q", value, i, problem)
			}
		}
	}
}

// TestB9MissingIsNotAValue: FAULTS B9. The mistakes in other fields are reported too.
func TestB9MissingIsNotAValue(t *testing.T) {
	value := "postStart: {exec: {}}\npreStop: {tcpSocket: {host: h}, timeoutSeconds: 0}\nonExit: {httpGet: {port: 0}}\npreStart: {exec: {command: ~}}"
	want := []string{
		"preStart.exec.command is missing; a list of 1 to 4096 words is allowed, the first one a program",
		"postStart.exec.command is missing; a list of 1 to 4096 words is allowed, the first one a program",
		"preStop.tcpSocket.port is missing; a number from 1 to 65535 is allowed",
		`preStop.tcpSocket.host is "h"; an IP address or localhost is allowed`,
		"preStop.timeoutSeconds is 0; it must be 1 to 2147483647",
		"onExit.httpGet.port is 0; a number from 1 to 65535 is allowed",
	}
	if got := problemsOf(t, KeyLifecycle, value); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestB9Templates: FAULTS B9. A template that was not rendered is recognised if the value
// cannot be anything else.
func TestB9Templates(t *testing.T) {
	for value, path := range map[string]string{
		"preStop: {{ .Values.preStop }}":                                            "preStop",
		"{{ toYaml .Values.lifecycle }}":                                            "",
		"{{- toYaml .Values.lifecycle | nindent 12 }}":                              "",
		"preStop:\n  exec:\n    command: {{ .Values.command }}":                     "preStop.exec.command",
		"preStop: {exec: {command: [{{ .Values.word }}]}}":                          "preStop.exec.command[0]",
		"preStop: {sleep: {seconds: {{ .Values.seconds }}}}":                        "preStop.sleep.seconds",
		"preStop: {sleep: {seconds: '{{ .Values.seconds }}'}}":                      "preStop.sleep.seconds",
		"stopSignal: '{{ .Values.signal }}'":                                        "stopSignal",
		"postStart: {sleep: {}, failurePolicy: '{{ .Values.a }}'}":                  "postStart.failurePolicy",
		"postStart: {exec: {command: [a]}, output: '{{ .Values.a }}'}":              "postStart.output",
		"preStop: {httpGet: {port: 1, scheme: '{{ .Values.a }}'}}":                  "preStop.httpGet.scheme",
		"preStop: {httpGet: {port: 1, host: '{{ .Values.a }}'}}":                    "preStop.httpGet.host",
		"preStop: {httpGet: {port: 1, httpHeaders: [{name: '{{ a }}', value: b}]}}": "preStop.httpGet.httpHeaders",
	} {
		problems := problemsOf(t, KeyLifecycle, value)
		if len(problems) != 1 || !strings.HasPrefix(problems[0], path) || !strings.HasSuffix(problems[0], "; "+templateHint) && !strings.Contains(problems[0], templateHint+" (put it in quotes)") {
			t.Errorf("%q: got %q", value, problems)
		}
	}
	for _, value := range []string{
		"preStop: {exec: {command: [docker, inspect, --format, '{{.Id}}']}}", "preStop: {sleep: {seconds: {a: b}}}", "preStop: {", "? {a: b}\n: c", "preStop: {sleep: {}, 'x{{': 1}",
		"? \n  a: b\n: c", "{? [a] : b}", "x: &a\n  b: c\npreStop: {*a : d}", "preStop: {sleep: {seconds: {}}}", "preStop: {exec: {command: ['{{']}}\n---\n{}",
	} {
		if problems := strings.Join(problemsOf(t, KeyLifecycle, value), "\n"); strings.Contains(problems, "template") {
			t.Errorf("%q: got %s", value, problems)
		}
	}
}

// TestB9PastedBlock: FAULTS B9. A block that was pasted with its key.
func TestB9PastedBlock(t *testing.T) {
	got := problemsOf(t, KeyLifecycle, "lifecycle:\n  preStop: {sleep: {seconds: 1}}")
	if len(got) != 1 || !strings.HasSuffix(got[0], "preStart, onExit; give only what is below lifecycle:") {
		t.Errorf("got %q", got)
	}
	for key, value := range map[string]string{KeyLifecycle: "preStop: {lifecycle: {}}", KeyPreStop: "lifecycle: {}"} {
		if got := problemsOf(t, key, value); strings.Contains(strings.Join(got, "\n"), "give only") {
			t.Errorf("%q: got %q", value, got)
		}
	}
}

// TestPodGracePeriod: an invalid value is ignored, and no number is too large.
func TestPodGracePeriod(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, "30": 30 * time.Second, "-1": 0, "-9223372036854775808": 0, "x": 0, "30s": 0, "1.5": 0, "99999999999999999999": 0,
		"2147483647": math.MaxInt32 * time.Second, "2147483648": math.MaxInt32 * time.Second, "9223372036854775807": math.MaxInt32 * time.Second,
	} {
		spec := &Spec{Annotations: map[string]string{KeyPreStop: goodHandler, podGracePeriod: text}}
		if got, err := spec.Lifecycle(); err != nil || got.PodGracePeriod != want {
			t.Errorf("%q is %+v, %v; want %v", text, got, err, want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for seconds, want := range map[int64]time.Duration{
		0: 0, 1: time.Second, -1: 0, math.MinInt64: 0, math.MaxInt32: math.MaxInt32 * time.Second, math.MaxInt32 + 1: math.MaxInt32 * time.Second, math.MaxInt64: math.MaxInt32 * time.Second,
	} {
		if got := Seconds(seconds); got != want {
			t.Errorf("%d is %v, want %v", seconds, got, want)
		}
	}
}

// TestProblemsAreBounded: in one value, and in the keys.
func TestProblemsAreBounded(t *testing.T) {
	for _, n := range []int{1, 19, 20, 21, 1000} {
		want := min(n, 20)
		fields, words, annotations := "", "preStop: {exec: {command: [a", map[string]string{criContainerName: "web"}
		for i := range n {
			fields += fmt.Sprintf("a%04d: 1\n", i)
			words += ", 1"
			annotations[fmt.Sprintf("%s/x%04d", domain, i)] = ""
		}
		if got := problemsOf(t, KeyLifecycle, fields); len(got) != want || !strings.HasPrefix(got[want-1], fmt.Sprintf("a%04d ", want-1)) {
			t.Errorf("%d fields: %d problems", n, len(got))
		}
		if got := problemsOf(t, KeyLifecycle, words+"]}}"); len(got) != want {
			t.Errorf("%d words: %d problems", n, len(got))
		}
		if got := problemsOf(t, KeyLifecycle, words+"]}}\n"+fields); len(got) != min(2*n, 20) {
			t.Errorf("%d words and fields: %d problems", n, len(got))
		}
		if got := (&Spec{Annotations: annotations}).Problems(Limits{}); len(got) != want || got[want-1].Key != fmt.Sprintf("%s/x%04d", domain, want-1) {
			t.Errorf("%d keys: %d problems", n, len(got))
		}
	}
}

// TestErrorsAreBounded for any key, path and problem.
func TestErrorsAreBounded(t *testing.T) {
	long := strings.Repeat("\x01", 100_000)
	err := &InvalidError{Key: long, Path: long, Problem: long}
	if got := len(err.Error()); got > maxKey+maxPath+maxProblem+20 || got > maxAnswer {
		t.Errorf("%d bytes", got)
	}
	key := domain + "/" + strings.Repeat("x", 100_000)
	_, one := (&Spec{Annotations: map[string]string{key: ""}}).Lifecycle()
	var invalid *InvalidError
	if !errors.As(one, &invalid) || invalid.Key != key || len(one.Error()) > maxAnswer || !strings.Contains(one.Error(), "allowed: "+KeyLifecycle) {
		t.Errorf("got %.300v", one)
	}
	name := strings.Repeat("x", 100_000)
	_, one = (&Spec{Annotations: map[string]string{criContainerName: name, name + "." + domain + "/a": ""}}).Lifecycle()
	if one == nil || len(one.Error()) > maxAnswer || !strings.Contains(one.Error(), "it must be "+shorten.End(name, 128)+"/lifecycle") {
		t.Errorf("got %.300v", one)
	}
	if got := (&InvalidError{Key: strings.Repeat("k", 600), Problem: "q"}).Error(); got != `annotation "`+strings.Repeat("k", 507)+`…" q` {
		t.Errorf("got %s", got)
	}
	if err := invalidOf("", strings.Repeat("p", 600), strings.Repeat("q", 2000)); len(err.Path) != 512 || len(err.Problem) != 1024 {
		t.Errorf("a path of %d bytes, a problem of %d", len(err.Path), len(err.Problem))
	}
	if other := errors.New("of another kind"); first(other) != other { //nolint:errorlint // it must be the same value
		t.Error("an error of another kind is lost")
	}
	for name, want := range map[string]string{
		"": `""`, "a": "a", "a b": `"a b"`, "a\u0001": `"a\x01"`, strings.Repeat("a", 128): strings.Repeat("a", 128),
		strings.Repeat("a", 129): `"` + strings.Repeat("a", 123) + `…"`,
	} {
		if got := shown(name); got != want {
			t.Errorf("%q is shown as %s", name, got)
		}
	}
}

func invalidOf(key, path, problem string) *InvalidError {
	return flatten(of(key, invalid(path, "%s", problem), nil))[0]
}

// TestNames: the tools rely on these.
func TestNames(t *testing.T) {
	if got := strings.Join(Keys(), " "); got != "lifecycle-shim.io/lifecycle lifecycle-shim.io/preStart lifecycle-shim.io/postStart lifecycle-shim.io/preStop lifecycle-shim.io/onExit" {
		t.Error(got)
	}
	if got := NamedKey("a"); got != "a.lifecycle-shim.io/lifecycle" {
		t.Error(got)
	}
	block, problems := Parse("preStart: {sleep: {seconds: 1}}\npostStart: {sleep: {seconds: 2}}\npreStop: {sleep: {seconds: 3}}\nonExit: {sleep: {seconds: 4}}", Limits{})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for i, name := range Handlers {
		if got := HandlerOf(block, name).GetSleep().GetSeconds(); got != int64(i+1) {
			t.Errorf("%s sleeps for %d", name, got)
		}
	}
	if HandlerOf(block, "x") != nil {
		t.Error("there is no handler x")
	}
	if _, problems := Parse("a: b", Limits{}); len(problems) != 1 || problems[0].Key != KeyLifecycle {
		t.Errorf("got %v", problems)
	}
	given := map[string]string{KeyLifecycle: "preStop: " + goodHandler}
	got, err := ContainerSpec(given, "web").Lifecycle()
	if err != nil || !got.CRI || len(given) != 1 {
		t.Errorf("got %+v, %v; given was %v", got, err, given)
	}
	own := map[string]string{NamedKey("web"): "preStop: " + goodHandler, NamedKey("db"): "nonsense"}
	if got, err := ContainerSpec(own, "web").Lifecycle(); err != nil || got == nil || got.Block.PreStop == nil {
		t.Errorf("a container's own key: got %+v, %v", got, err)
	}
	if got, err := ContainerSpec(nil, "web").Lifecycle(); got != nil || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	sandbox := &Spec{Annotations: map[string]string{KeyLifecycle: "nonsense", criContainerType: typeSandbox}}
	if problems := sandbox.Problems(Limits{}); problems != nil {
		t.Errorf("a pause container: %v", problems)
	}
}

// TestSingleKeys: each handler's key alone, and the mistakes in several, in the order of a
// container's life.
func TestSingleKeys(t *testing.T) {
	for _, name := range Handlers {
		got, err := (&Spec{Annotations: map[string]string{domain + "/" + name: "sleep: {seconds: 7}"}}).Lifecycle()
		if err != nil || HandlerOf(got.Block, name).GetSleep().GetSeconds() != 7 {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	spec := &Spec{Annotations: map[string]string{KeyOnExit: "a: 1", KeyPreStop: "a: 1", KeyPostStart: "a: 1", KeyPreStart: "a: 1", KeyLifecycle + "x": ""}}
	var keys []string
	for _, problem := range spec.Problems(Limits{}) {
		keys = append(keys, problem.Key)
	}
	if got := strings.Join(keys, " "); got != KeyLifecycle+"x "+strings.Join(singleKeys, " ") {
		t.Errorf("got %s", got)
	}
	_, err := (&Spec{Annotations: map[string]string{KeyOnExit: goodHandler, KeyLifecycle: "{}"}}).Lifecycle()
	if want := `annotation "lifecycle-shim.io/lifecycle" cannot be used together with lifecycle-shim.io/preStart, lifecycle-shim.io/postStart, lifecycle-shim.io/preStop ` +
		"or lifecycle-shim.io/onExit: move those handlers into it, or remove it"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	for key := range map[string]bool{"/lifecycle": true, "/x": true, "a/lifecycle": true, "lifecycle-shim.io": true, "." + domain + "/x": true} {
		if got, err := (&Spec{Annotations: map[string]string{key: "nonsense"}}).Lifecycle(); got != nil || err != nil {
			t.Errorf("%q: got %+v, %v", key, got, err)
		}
	}
}
