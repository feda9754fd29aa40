package convert

import (
	"fmt"
	"strings"
	"testing"
)

// TestValidate: what is said of each kind of text, whole.
func TestValidate(t *testing.T) {
	const handler = `'{exec: {command: [a]}}'`
	for name, test := range map[string]struct {
		text                       string
		checked, warnings, refused []string
	}{
		"a converted pod": {
			text: `{kind: Pod, apiVersion: v1, metadata: {name: p, annotations: {web.lifecycle-shim.io/lifecycle: '{"postStart":{"exec":{"command":["a"]}},"preStop":{"sleep":{"seconds":1}}}', other: 5}},
				spec: {runtimeClassName: lifecycle, containers: [{name: web}, {name: log}]}}`,
			checked: []string{"Pod/p: container web: postStart exec, preStop sleep"},
		},
		"no annotations": {
			text: fixture{lifecycle: preStop}.yaml(), checked: []string{"Pod/p: no annotations of lifecycle-shim.io"},
			warnings: []string{"Pod/p: container web: lifecycle: is run by the kubelet and not checked here; lifecyclectl convert moves it to the shim and checks it"},
		},
		"another kind": {text: "{kind: ConfigMap}"},
		"all that is wrong with a block": {
			text: `{kind: CronJob, apiVersion: batch/v1, metadata: {name: j}, spec: {jobTemplate: {spec: {template: {metadata: {annotations: {
				a.lifecycle-shim.io/lifecycle: '{postStart: {httpGet: {port: http, scheme: FTP, extra: 1}}, preStop: {exec: {command: [1, b, 2]}}}',
				b.lifecycle-shim.io/lifecycle: '{preStop: {tcpSocket: {host: h}, timeoutSeconds: 0, failurePolicy: Fail}, stopSignal: X, terminationGracePeriodSeconds: 0}'}},
				spec: {runtimeClassName: lifecycle, containers: [{name: a}], initContainers: [{name: b, restartPolicy: Always}]}}}}}}`,
			refused: []string{
				`CronJob/j: container a: annotation "a.lifecycle-shim.io/lifecycle": postStart.httpGet.extra is not a known field; allowed: path, port, host, scheme, httpHeaders`,
				`CronJob/j: container a: annotation "a.lifecycle-shim.io/lifecycle": postStart.httpGet.port is the text "http"; a number from 1 to 65535 is allowed, without quotes (names are resolved by lifecyclectl and the admission policy)`,
				`CronJob/j: container a: annotation "a.lifecycle-shim.io/lifecycle": preStop.exec.command[0] must be a string, not a number (put it in quotes)`,
				`CronJob/j: container a: annotation "a.lifecycle-shim.io/lifecycle": preStop.exec.command[2] must be a string, not a number (put it in quotes)`,
				`CronJob/j: container b: annotation "b.lifecycle-shim.io/lifecycle": stopSignal is "X"; a signal's name is allowed, such as SIGQUIT or SIGRTMIN+3`,
				`CronJob/j: container b: annotation "b.lifecycle-shim.io/lifecycle": terminationGracePeriodSeconds is 0; it must be 1 or more`,
				`CronJob/j: container b: annotation "b.lifecycle-shim.io/lifecycle": preStop.tcpSocket.port is missing; a number from 1 to 65535 is allowed`,
				`CronJob/j: container b: annotation "b.lifecycle-shim.io/lifecycle": preStop.tcpSocket.host is "h"; an IP address or localhost is allowed`,
				`CronJob/j: container b: annotation "b.lifecycle-shim.io/lifecycle": preStop.timeoutSeconds is 0; it must be 1 to 2147483647`,
				`CronJob/j: container b: annotation "b.lifecycle-shim.io/lifecycle": preStop.failurePolicy is for preStart and postStart only: a preStop that fails never keeps a container alive`,
			},
		},
		"general keys": {
			text: `{kind: Pod, apiVersion: v1, metadata: {name: p, annotations: {lifecycle-shim.io/lifecycle: 'preStop: {}', lifecycle-shim.io/prestop: ''}},
				spec: {runtimeClassName: lifecycle, containers: [{name: a}, {name: b}]}}`,
			refused: []string{
				`Pod/p: annotation "lifecycle-shim.io/prestop": is not a known key; allowed: lifecycle-shim.io/lifecycle, lifecycle-shim.io/preStart, lifecycle-shim.io/postStart, lifecycle-shim.io/preStop, lifecycle-shim.io/onExit`,
				`Pod/p: annotation "lifecycle-shim.io/lifecycle": preStop must have exactly one of exec, httpGet, tcpSocket and sleep; it has 0`,
			},
		},
		"a general block, once": {
			text: `{kind: Pod, apiVersion: v1, metadata: {name: p, annotations: {lifecycle-shim.io/lifecycle: 'preStop: {}'}},
				spec: {runtimeClassName: lifecycle, containers: [{name: a}, {name: b}]}}`,
			refused: []string{`Pod/p: annotation "lifecycle-shim.io/lifecycle": preStop must have exactly one of exec, httpGet, tcpSocket and sleep; it has 0`},
		},
		"around it": {
			text: `{kind: Pod, apiVersion: v1, metadata: {name: p, annotations: {lifecycle-shim.io/preStop: ` + handler + `, nobody.lifecycle-shim.io/lifecycle: x}},
				spec: {containers: [{name: a, lifecycle: {preStop: {sleep: {seconds: 1}}}}], initContainers: [{name: i}, {name: s, restartPolicy: Always}]}}`,
			checked: []string{"Pod/p: container a: preStop exec", "Pod/p: container i: preStop exec", "Pod/p: container s: preStop exec"},
			warnings: []string{
				`Pod/p: annotation "nobody.lifecycle-shim.io/lifecycle": names no container of this pod (it has a, i, s), so the shim ignores it`,
				"Pod/p: container a: lifecycle: is set as well as the annotation: the kubelet runs the handlers here, and the shim those of the annotation; remove one of the two",
				`Pod/p: spec.runtimeClassName: is not "lifecycle": the annotations have no effect unless this shim is the handler of the pod's runtime class`,
				"Pod/p: container i: gets handlers, but is neither a main container nor a sidecar: Kubernetes allows no handlers on it; use keys with a container's name",
			},
		},
		"annotations that are no texts": {
			text:    `{kind: Pod, apiVersion: v1, metadata: {name: p, annotations: {a.lifecycle-shim.io/lifecycle: {preStop: {}}}}, spec: {containers: [{name: a}]}}`,
			refused: []string{`Pod/p: container a: annotation "a.lifecycle-shim.io/lifecycle": must be a string; put the block in quotes, or on separate lines after a |`},
		},
		"no mapping of annotations": {
			text:    `{kind: Pod, apiVersion: v1, metadata: {name: p, annotations: [a]}, spec: {containers: [{name: a}]}}`,
			refused: []string{"Pod/p: metadata.annotations: must be a mapping"},
		},
		"a list, and documents": {
			text:    `{"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"name":"p"}}]}` + "\n---\n# nothing\n---\nkind: Pod\nmetadata: {name: q}\napiVersion: v1\n",
			checked: []string{"Pod/p: no annotations of lifecycle-shim.io", "Pod/q: no annotations of lifecycle-shim.io"},
		},
		"an OCI spec": {
			text:    `{"ociVersion":"1.2.0","annotations":{"lifecycle-shim.io/postStart":"sleep: {seconds: 1}","x":"y"}}`,
			checked: []string{"document 1: postStart sleep"},
		},
		"a CRI container's spec": {
			text: `{"ociVersion":"1.2.0","annotations":{"web.lifecycle-shim.io/lifecycle":"preStop: {sleep: {seconds: -1}}","b.lifecycle-shim.io/lifecycle":"?",` +
				`"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.container-name":"web"}}`,
			refused: []string{`document 1: annotation "web.lifecycle-shim.io/lifecycle": preStop.sleep.seconds is -1; it must be 0 or more`},
		},
		"a pause container's spec": {
			text:    `{"ociVersion":"1.2.0","annotations":{"lifecycle-shim.io/lifecycle":"?","io.kubernetes.cri.container-type":"sandbox"}}`,
			checked: []string{"document 1: an OCI spec without handlers in its annotations"},
		},
		"a spec without annotations": {
			text: `{"ociVersion":"1.2.0"}`, checked: []string{"document 1: an OCI spec without handlers in its annotations"},
		},
		"annotations": {
			text: "lifecycle-shim.io/preStop: " + handler + "\nx: y\n", checked: []string{"document 1: preStop exec"},
		},
		"annotations of containers": {
			text:    "a.lifecycle-shim.io/lifecycle: 'preStop: {sleep: {seconds: 1}}'\nb.lifecycle-shim.io/lifecycle: 'stopSignal: [a]'\n",
			checked: []string{"document 1: container a: preStop sleep"},
			refused: []string{`document 1: container b: annotation "b.lifecycle-shim.io/lifecycle": stopSignal must be a string, not a list (put it in quotes)`},
		},
		"a block": {
			text: "# of web\npostStart: {exec: {command: [yes]}, timeoutSeconds: 5}\n", checked: []string{"document 1: a block with postStart exec"},
		},
		"a wrong block": {
			text: "prestop: {}\npostStart: {sleep: {seconds: x}}\n",
			refused: []string{
				"document 1: postStart.sleep.seconds: must be a whole number, not a string",
				"document 1: prestop: is not a known field; allowed: postStart, preStop, stopSignal, terminationGracePeriodSeconds, preStart, onExit",
			},
		},
		"an empty block":     {text: "{}", checked: []string{"document 1: a block with no handlers"}},
		"a list of words":    {text: "[a]", refused: []string{"document 1: must be a mapping, not a list"}},
		"broken":             {text: "{", refused: []string{"document 1: is not valid YAML: did not find expected node content"}},
		"a pasted lifecycle": {text: "lifecycle: " + preStop, refused: []string{"document 1: lifecycle: is a container's field that holds a block; pass its value only"}},
		"a template":         {text: "kind: Pod\n{{- with .Values.a }}\n{{ end }}", refused: []string{`document 1: is a template that was not rendered: it has "{{" and is not YAML; render it first (helm template)`}},
		"not UTF-8":          {text: "\xff", refused: []string{"document 1: is not UTF-8 text; write the file in UTF-8"}},
		"nothing":            {text: "# nothing\n"},
	} {
		t.Run(name, func(t *testing.T) {
			report := Validate([]byte(test.text), inClass)
			wantFindings(t, "checked", report.Checked, test.checked)
			wantFindings(t, "warnings", report.Warnings, test.warnings)
			wantFindings(t, "refused", report.Refusals, test.refused)
		})
	}
}

func wantFindings(t *testing.T, what string, got []Finding, want []string) {
	t.Helper()
	var texts []string
	for _, finding := range got {
		texts = append(texts, finding.String())
	}
	if strings.Join(texts, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(texts, "\n"), strings.Join(want, "\n"))
	}
}

// TestValidateBounds: what one value can make it say is bounded.
func TestValidateBounds(t *testing.T) {
	text := "preStop: {exec: {command: [" + strings.Repeat("1,", 20000) + "]}}"
	for i := range 1000 {
		text += fmt.Sprintf("\nx%d: 1", i)
	}
	if got := len(Validate([]byte(text), inClass).Refusals); got < 20 || got > 100 {
		t.Errorf("%d problems are told", got)
	}
}
