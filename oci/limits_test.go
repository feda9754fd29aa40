package oci

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

var testLimits = Limits{MaxTimeout: 20 * time.Second, MaxGracePeriod: 25 * time.Second, AllowedHandlers: []string{"exec", "httpGet", "sleep"}}

// TestLimitsRefuse: docs/spec.md#operator-limits.
func TestLimitsRefuse(t *testing.T) {
	const timeout, types = "; the operator's limit MaxTimeout is 20", "; the operator's limit AllowedHandlers is exec, httpGet, sleep"
	for name, test := range map[string]struct {
		annotations map[string]string
		want        []string
	}{
		"at the limits": {map[string]string{KeyLifecycle: "preStop: {exec: {command: [a]}, timeoutSeconds: 20, retryPeriodSeconds: 20}\nonExit: {sleep: {seconds: 20}}\nterminationGracePeriodSeconds: 25"}, nil},
		"nothing set":   {map[string]string{KeyPreStop: "exec: {command: [a]}"}, nil},
		"every handler": {
			map[string]string{KeyLifecycle: "preStart: {exec: {command: [a]}, timeoutSeconds: 21}\npostStart: {sleep: {seconds: 22}}\n" +
				"preStop: {exec: {command: [a]}, retryPeriodSeconds: 23}\nonExit: {tcpSocket: {port: 1}, timeoutSeconds: 24}\nterminationGracePeriodSeconds: 26"},
			[]string{
				KeyLifecycle + `": terminationGracePeriodSeconds is 26; the operator's limit MaxGracePeriod is 25`,
				KeyLifecycle + `": preStart.timeoutSeconds is 21` + timeout, KeyLifecycle + `": postStart.sleep.seconds is 22` + timeout,
				KeyLifecycle + `": preStop.retryPeriodSeconds is 23` + timeout, KeyLifecycle + `": onExit is of type tcpSocket` + types,
				KeyLifecycle + `": onExit.timeoutSeconds is 24` + timeout,
			},
		},
		"each its own key": {
			map[string]string{KeyOnExit: "exec: {command: [a]}\ntimeoutSeconds: 21", KeyPreStop: "tcpSocket: {port: 1}"},
			[]string{KeyPreStop + `": preStop is of type tcpSocket` + types, KeyOnExit + `": onExit.timeoutSeconds is 21` + timeout},
		},
		"a container's own key": {
			map[string]string{criContainerName: "web", "web." + KeyLifecycle: "preStop: {sleep: {seconds: 21}}"},
			[]string{"web." + KeyLifecycle + `": preStop.sleep.seconds is 21` + timeout},
		},
		"the largest": {
			map[string]string{KeyLifecycle: "preStop: {sleep: {seconds: 1}}\nterminationGracePeriodSeconds: 9223372036854775807"},
			[]string{KeyLifecycle + `": terminationGracePeriodSeconds is 9223372036854775807; the operator's limit MaxGracePeriod is 25`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &Spec{Annotations: test.annotations}
			lifecycle, err := spec.Lifecycle()
			if err != nil {
				t.Fatal(err)
			}
			if err := lifecycle.Within(Limits{}); err != nil || len(spec.Problems(Limits{})) > 0 {
				t.Errorf("without limits: %v, %v", err, spec.Problems(Limits{}))
			}
			var got []string
			for _, problem := range spec.Problems(testLimits) {
				got = append(got, strings.TrimPrefix(problem.Error(), `annotation "`))
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			err = lifecycle.Within(testLimits)
			if invalid := (*InvalidError)(nil); (err != nil) != (len(test.want) > 0) || err != nil && (!errors.As(err, &invalid) || err.Error() != `annotation "`+test.want[0]) {
				t.Errorf("Within returns %v", err)
			}
		})
	}
}

func TestLimitsThatAllowNothing(t *testing.T) {
	limits := Limits{AllowedHandlers: []string{"exec"}}.Stricter(Limits{AllowedHandlers: []string{"sleep"}})
	_, problems := Parse("preStop: {exec: {command: [a]}}", limits)
	if len(problems) != 1 || problems[0].Problem != "is of type exec; the operator's limit AllowedHandlers is none" {
		t.Errorf("got %v", problems)
	}
}

// TestLimitsDoNotHideMistakes: what is wrong comes first, alone.
func TestLimitsDoNotHideMistakes(t *testing.T) {
	_, problems := Parse("preStop: {exec: {command: []}, timeoutSeconds: 21}", testLimits)
	if len(problems) != 1 || problems[0].Path != "preStop.exec.command" {
		t.Errorf("got %v", problems)
	}
}

func TestStricter(t *testing.T) {
	one := Limits{MaxTimeout: 3 * time.Second, AllowedHandlers: []string{"exec", "sleep"}}
	other := Limits{MaxTimeout: 2 * time.Second, MaxGracePeriod: time.Second, AllowedHandlers: []string{"httpGet", "sleep"}}
	want := Limits{MaxTimeout: 2 * time.Second, MaxGracePeriod: time.Second, AllowedHandlers: []string{"sleep"}}
	for name, test := range map[string]struct{ one, other, want Limits }{
		"both": {one, other, want}, "in the other order": {other, one, want}, "only one": {one, Limits{}, one}, "neither": {},
	} {
		if got := test.one.Stricter(test.other); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v", name, got)
		}
		if got := test.want.Limited(); got != (name != "neither") {
			t.Errorf("%s: limited: %t", name, got)
		}
	}
}

func TestParseLimit(t *testing.T) {
	for text, want := range map[string]time.Duration{"1s": time.Second, "1.5m": 90 * time.Second, "1000ms": time.Second, "2147483647s": maxSeconds * time.Second} {
		if got, err := ParseLimit(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "0s", "-5s", "999ms", "1500ms", "2147483648s", "soon", strings.Repeat("1", 100000)} {
		if got, err := ParseLimit(text); err == nil || len(err.Error()) > 512 {
			t.Errorf("%.20s: got %s, %v", text, got, err)
		}
	}
}

func TestParseAllowed(t *testing.T) {
	if got, err := ParseAllowed([]string{"sleep", "exec", "sleep"}); err != nil || !reflect.DeepEqual(got, []string{"exec", "sleep"}) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, types := range [][]string{{}, {"grpc"}, {"Exec"}, {"exec", ""}, {strings.Repeat("x", 100000)}} {
		if got, err := ParseAllowed(types); err == nil || len(err.Error()) > 512 {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// TestHandlerTypes: the list, TypeOf and the schema are the same.
func TestHandlerTypes(t *testing.T) {
	for name, action := range map[string]string{"exec": "command: [a]", "httpGet": "port: 1", "tcpSocket": "port: 1", "sleep": "seconds: 1"} {
		block, problems := Parse("preStop: {"+name+": {"+action+"}}", Limits{AllowedHandlers: []string{name}})
		if len(problems) > 0 || TypeOf(block.GetPreStop()) != name {
			t.Errorf("%s: %v, %v", name, block, problems)
		}
	}
	_, problems := Parse("preStop: {}", Limits{})
	if want := "must have exactly one of exec, httpGet, tcpSocket and sleep; it has 0"; len(problems) != 1 || problems[0].Problem != want || len(HandlerTypes) != 4 {
		t.Errorf("got %v", problems)
	}
}
