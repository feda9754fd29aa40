package convert

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	kyaml "sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

var limited = Rules{RuntimeClass: class, Limits: oci.Limits{
	MaxTimeout: 20 * time.Second, MaxGracePeriod: 25 * time.Second, AllowedHandlers: []string{"exec", "sleep"},
}}

// TestLimits: docs/spec.md#operator-limits. Each door refuses in the same words.
func TestLimits(t *testing.T) {
	const inClass, key = ", runtimeClassName: lifecycle", "web.lifecycle-shim.io/lifecycle"
	for name, test := range map[string]struct {
		fixture
		refused string
	}{
		"a native sleep":  {fixture{lifecycle: "{preStop: {sleep: {seconds: 21}}}"}, "Pod/p: container web: lifecycle.preStop.sleep.seconds: is 21; the operator's limit MaxTimeout is 20"},
		"a native type":   {fixture{lifecycle: "{postStart: {httpGet: {port: 80}}}"}, "Pod/p: container web: lifecycle.postStart: is of type httpGet; the operator's limit AllowedHandlers is exec, sleep"},
		"the pod's grace": {fixture{lifecycle: preStop, spec: ", terminationGracePeriodSeconds: 26"}, "Pod/p: container web: terminationGracePeriodSeconds: is 26; the operator's limit MaxGracePeriod is 25"},
		"in the annotation too": {
			fixture{lifecycle: "{preStop: {sleep: {seconds: 5}}}", spec: inClass, annotations: "{" + key + ": 'preStop: {sleep: {seconds: 5}, timeoutSeconds: 21}'}"},
			`Pod/p: container web: metadata.annotations: annotation "` + key + `": preStop.timeoutSeconds is 21; the operator's limit MaxTimeout is 20`,
		},
		"only an annotation": {
			fixture{lifecycle: "null", spec: inClass, annotations: "{" + key + ": 'onExit: {sleep: {seconds: 5}, timeoutSeconds: 21}'}"},
			`Pod/p: container web: metadata.annotations: annotation "` + key + `": onExit.timeoutSeconds is 21; the operator's limit MaxTimeout is 20`,
		},
		"for all containers": {
			fixture{lifecycle: "null", spec: inClass, annotations: "{lifecycle-shim.io/preStart: 'sleep: {seconds: 21}'}"},
			`Pod/p: metadata.annotations: annotation "lifecycle-shim.io/preStart": preStart.sleep.seconds is 21; the operator's limit MaxTimeout is 20`,
		},
		"at the limits":         {fixture{lifecycle: "{preStop: {sleep: {seconds: 20}}}", spec: ", terminationGracePeriodSeconds: 25"}, ""},
		"another class":         {fixture{lifecycle: "null", spec: ", runtimeClassName: other", annotations: "{" + key + ": 'onExit: {sleep: {seconds: 21}}'}"}, ""},
		"for Windows":           {fixture{lifecycle: "null", spec: inClass + ", os: {name: windows}", annotations: "{" + key + ": 'onExit: {sleep: {seconds: 21}}'}"}, ""},
		"another container's":   {fixture{lifecycle: "null", spec: inClass, annotations: "{db.lifecycle-shim.io/lifecycle: 'onExit: {sleep: {seconds: 21}}'}"}, ""},
		"wrong, left to Create": {fixture{lifecycle: "null", spec: inClass, annotations: "{" + key + ": 'onExit: {sleep: {}, timeoutSeconds: 21, x: 1}'}"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var want []string
			if test.refused != "" {
				want = []string{test.refused}
			}
			_, report := Stream([]byte(test.yaml()), limited)
			wantFindings(t, "refused", withoutLines(report.Refusals), want)
			if strings.Contains(test.yaml(), inClass) {
				pod, err := kyaml.YAMLToJSON([]byte(test.yaml()))
				if err != nil {
					t.Fatal(err)
				}
				_, admitted, err := Pod(t.Context(), pod, limited)
				if err != nil {
					t.Fatal(err)
				}
				wantFindings(t, "refused at admission", admitted.Refusals, want)
			}
			if _, report := Stream([]byte(test.yaml()), Rules{RuntimeClass: class}); len(report.Refusals) > 0 {
				t.Errorf("without limits: %v", report.Refusals)
			}
		})
	}
}

func withoutLines(findings []Finding) []Finding {
	all := slices.Clone(findings)
	for i := range all {
		all[i].Line = 0
	}
	return all
}

// TestLimitsCutTheDefault: docs/spec.md#operator-limits-unset.
func TestLimitsCutTheDefault(t *testing.T) {
	for grace, want := range map[string]string{"": "25", ", terminationGracePeriodSeconds: 30": "25", ", terminationGracePeriodSeconds: 20": "20", ", terminationGracePeriodSeconds: 0": "1"} {
		result, report := Stream([]byte(fixture{lifecycle: preStop, spec: grace}.yaml()), limited)
		if len(report.Refusals) > 0 || !strings.Contains(string(result), `terminationGracePeriodSeconds":`+want+"}") {
			t.Errorf("%q: %v, %s", grace, report.Refusals, result)
		}
	}
}

func TestValidateLimits(t *testing.T) {
	for text, want := range map[string]string{
		"preStop: {sleep: {seconds: 21}}":                                                                    "document 1: preStop.sleep.seconds: is 21; the operator's limit MaxTimeout is 20",
		"a.lifecycle-shim.io/lifecycle: 'preStop: {tcpSocket: {port: 1}}'":                                   `document 1: container a: annotation "a.lifecycle-shim.io/lifecycle": preStop is of type tcpSocket; the operator's limit AllowedHandlers is exec, sleep`,
		"lifecycle-shim.io/lifecycle: '{preStop: {sleep: {seconds: 1}}, terminationGracePeriodSeconds: 26}'": `document 1: annotation "lifecycle-shim.io/lifecycle": terminationGracePeriodSeconds is 26; the operator's limit MaxGracePeriod is 25`,
	} {
		report := Validate([]byte(text), limited)
		wantFindings(t, "refused", report.Refusals, []string{want})
		wantFindings(t, "checked", report.Checked, nil)
	}
}

func TestLimitFlags(t *testing.T) {
	parse := func(arguments ...string) (oci.Limits, error) {
		var limits oci.Limits
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		AddLimits(flags, &limits)
		return limits, flags.Parse(arguments)
	}
	got, err := parse("--max-timeout=20s", "--max-grace-period", "25s", "--allowed-handlers", "sleep, exec")
	if err != nil || got.MaxTimeout != limited.Limits.MaxTimeout || got.MaxGracePeriod != limited.Limits.MaxGracePeriod || !slices.Equal(got.AllowedHandlers, limited.Limits.AllowedHandlers) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := parse(); err != nil || got.Limited() {
		t.Errorf("without flags: %+v, %v", got, err)
	}
	for argument, says := range map[string]string{
		"--max-timeout=0": "whole seconds", "--max-grace-period=1500ms": "whole seconds", "--allowed-handlers=": "no type of handler is named", "--allowed-handlers=grpc": `"grpc" is no type of handler`,
	} {
		if _, err := parse(argument); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", argument, err)
		}
	}
}
