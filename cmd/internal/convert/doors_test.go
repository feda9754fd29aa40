package convert

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

// FAULTS B2: a pod for Windows is not changed, and there is a warning, for every field that
// marks a pod for Windows. Fields that require Linux win over windowsOptions.
func TestB2Windows(t *testing.T) {
	const term = "{key: kubernetes.io/os, operator: In, values: [windows]}"
	affinity := func(terms string) string {
		return ", affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [" + terms + "]}}}"
	}
	for name, test := range map[string]struct {
		spec    string
		windows bool
	}{
		"os":                          {", os: {name: windows}", true},
		"os of Linux":                 {", os: {name: linux}, nodeSelector: {kubernetes.io/os: windows}", false},
		"nodeSelector":                {", nodeSelector: {kubernetes.io/os: windows}", true},
		"the old label":               {", nodeSelector: {beta.kubernetes.io/os: windows}", true},
		"nodeSelector of Linux":       {", nodeSelector: {kubernetes.io/os: linux}, securityContext: {windowsOptions: {runAsUserName: x}}", false},
		"another label":               {", nodeSelector: {example.org/os: windows}", false},
		"affinity":                    {affinity("{matchExpressions: [{key: a, operator: Exists}, " + term + "]}"), true},
		"affinity, the old label":     {affinity("{matchExpressions: [{key: beta.kubernetes.io/os, operator: In, values: [windows]}]}"), true},
		"affinity, not Linux":         {affinity("{matchExpressions: [{key: kubernetes.io/os, operator: NotIn, values: [linux]}]}"), true},
		"affinity, two terms":         {affinity("{matchExpressions: [" + term + "]}, {matchExpressions: [" + term + "]}"), true},
		"affinity, either":            {affinity("{matchExpressions: [" + term + "]}, {matchExpressions: [{key: a, operator: Exists}]}"), false},
		"affinity, either system":     {affinity("{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [windows, linux]}]}"), false},
		"preferred only":              {", affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [" + term + "]}}]}}", false},
		"windowsOptions":              {", securityContext: {windowsOptions: {hostProcess: true}}", true},
		"windowsOptions of another":   {", initContainers: [{name: i, securityContext: {windowsOptions: {runAsUserName: x}}}]", true},
		"empty windowsOptions":        {", securityContext: {windowsOptions: {}}", true},
		"null windowsOptions":         {", securityContext: {windowsOptions: ~}", false},
		"Windows, and names class":    {", runtimeClassName: lifecycle, os: {name: windows}", true},
		"nothing about the system":    {"", false},
		"nodeSelector that is a text": {", nodeSelector: windows", false},
	} {
		t.Run(name, func(t *testing.T) {
			text := fixture{lifecycle: preStop, spec: test.spec}.yaml()
			result, report := Stream([]byte(text), inClass)
			if len(report.Refusals) > 0 {
				t.Fatal(report.Refusals)
			}
			if untouched := string(result) == text; untouched != test.windows || (report.Moved == 0) != test.windows {
				t.Errorf("got %s", result)
			}
			if warned := len(report.Warnings) == 1 && strings.Contains(report.Warnings[0].Text, "is for Windows"); warned != test.windows {
				t.Errorf("got the warnings %v", report.Warnings)
			}
		})
	}
}

// FAULTS B4: what stands where Kubernetes does not look is reported by convert and
// validate, with its place.
func TestB4WrongPlaces(t *testing.T) {
	pod := func(spec string) string {
		return "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {" + spec + "}}\n"
	}
	for name, test := range map[string]struct{ text, where string }{
		"in the spec":                {pod("lifecycle: " + preStop + ", containers: [{name: web}]"), "Pod/p: spec.lifecycle: is not where"},
		"beside the image":           {pod("containers: [{name: web, image: x, preStop: {exec: {command: [a]}}}]"), "Pod/p: container web: preStop: is not a field of a container"},
		"beside it, misspelt":        {pod("containers: [{name: web, image: x, poststart: {exec: {command: [a]}}}]"), "Pod/p: container web: poststart: is not a field of a container"},
		"lifeCycle":                  {pod("containers: [{name: web, lifeCycle: " + preStop + "}]"), "Pod/p: container web: lifeCycle: is not a field of a container, so Kubernetes ignores it; write lifecycle"},
		"a list":                     {pod("containers: [{name: web, lifecycle: [{preStop: {exec: {command: [a]}}}]}]"), "Pod/p: container web: lifecycle: must be a mapping, with postStart, preStop or both, not a list"},
		"a text":                     {pod("containers: [{name: web, lifecycle: 'preStop: x'}]"), "Pod/p: container web: lifecycle: must be a mapping, with postStart, preStop or both, not a string"},
		"below a field":              {pod("containers: [{name: web, livenessProbe: {lifecycle: " + preStop + "}}]"), "Pod/p: container web: spec.containers.0.livenessProbe.lifecycle: is not where"},
		"in the spec of a template":  {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {template: {spec: {containers: [{name: web}], preStop: {sleep: {seconds: 1}}}}}}\n", "Deployment/d: spec.template.spec.preStop: is not where"},
		"beside the template":        {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {lifecycle: " + preStop + ", template: {spec: {containers: [{name: web}]}}}}\n", "Deployment/d: spec.lifecycle: is not where"},
		"beside the template's spec": {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {template: {lifecycle: " + preStop + ", spec: {containers: [{name: web}]}}}}\n", "Deployment/d: spec.template.lifecycle: is not where"},
	} {
		t.Run(name, func(t *testing.T) {
			result, report := Stream([]byte(test.text), inClass)
			for tool, refusals := range map[string][]Finding{"convert": report.Refusals, "validate": Validate([]byte(test.text), inClass).Refusals} {
				if len(refusals) != 1 || !strings.HasPrefix(refusals[0].String(), test.where) {
					t.Errorf("%s says %v, want %s", tool, refusals, test.where)
				}
			}
			if result != nil {
				t.Errorf("it is converted to %s", result)
			}
		})
	}
	// Words that other fields may be called by are none of this.
	for _, spec := range []string{"containers: [{name: lifecycle, env: [{name: preStop, value: x}]}]", "nodeSelector: {lifecycle: spot}, containers: [{name: a}]"} {
		if result, report := Stream([]byte(pod(spec)), inClass); string(result) != pod(spec) || len(report.Refusals)+len(report.Warnings) > 0 {
			t.Errorf("%s: got %v, %v", spec, report.Refusals, report.Warnings)
		}
	}
}

// FAULTS B5: native handlers beside an annotation that says the same are removed from
// spec; those that differ are refused. Nothing runs twice.
//
// See docs/spec.md#convert-twice.
func TestB5Twice(t *testing.T) {
	const named = "web.lifecycle-shim.io/lifecycle"
	const full = `{"preStop":{"exec":{"command":["a"]}},"terminationGracePeriodSeconds":30}`
	for name, test := range map[string]struct {
		fixture
		refused string // "" where spec loses its handlers
	}{
		"as convert writes it":       {fixture{lifecycle: preStop, annotations: "{" + named + ": '" + full + "'}"}, ""},
		"by hand":                    {fixture{lifecycle: preStop, annotations: "{" + named + ": 'preStop: {exec: {command: [a]}}'}"}, ""},
		"with more":                  {fixture{lifecycle: preStop, annotations: "{" + named + ": '{preStop: {exec: {command: [a]}, timeoutSeconds: 5}, onExit: {sleep: {seconds: 1}}}'}"}, ""},
		"defaults of httpGet":        {fixture{lifecycle: "{preStop: {httpGet: {port: http}}}", container: ", ports: [{name: http, containerPort: 80}]", annotations: "{" + named + ": 'preStop: {httpGet: {port: 80, path: /}}'}"}, ""},
		"the pod's general key":      {fixture{lifecycle: preStop, annotations: "{lifecycle-shim.io/lifecycle: '" + full + "'}"}, ""},
		"the command line's key":     {fixture{lifecycle: preStop, annotations: "{lifecycle-shim.io/preStop: 'exec: {command: [a]}'}"}, ""},
		"another command":            {fixture{lifecycle: preStop, annotations: "{" + named + ": 'preStop: {exec: {command: [b]}}'}"}, `lifecycle.preStop: is not what the annotation "web.lifecycle-shim.io/lifecycle" says`},
		"another kind of handler":    {fixture{lifecycle: preStop, annotations: "{" + named + ": 'preStop: {sleep: {seconds: 1}}'}"}, "lifecycle.preStop: is not what the annotation"},
		"one that the block has not": {fixture{lifecycle: preStop, annotations: "{" + named + ": 'postStart: {exec: {command: [a]}}'}"}, `lifecycle.preStop: is not in the annotation "web.lifecycle-shim.io/lifecycle"`},
		"an empty block":             {fixture{lifecycle: preStop, annotations: "{" + named + ": '{}'}"}, "lifecycle.preStop: is not in the annotation"},
		"a block that is none":       {fixture{lifecycle: preStop, annotations: "{" + named + ": '['}"}, "lifecycle.preStop: is not in the annotation"},
	} {
		t.Run(name, func(t *testing.T) {
			result, report := Stream([]byte(test.yaml()), inClass)
			if test.refused != "" {
				if len(report.Refusals) != 1 || !strings.HasPrefix(report.Refusals[0].String(), "Pod/p: container web: "+test.refused) {
					t.Errorf("got %v", report.Refusals)
				}
				return
			}
			pod := convertOne(t, test.yaml())
			if pod.Spec.Containers[0].Lifecycle != nil || pod.Spec.RuntimeClassName != class || report.Moved != 1 || len(pod.Metadata.Annotations) != 1 {
				t.Errorf("got %s, %d moved", result, report.Moved)
			}
		})
	}
}

// FAULTS B6: every handler of an object of an unknown kind is reported; pod templates at
// spec.template are converted, others where a flag says.
func TestB6OtherKinds(t *testing.T) {
	const handlers = "spec: {containers: [{name: a, lifecycle: {preStop: {exec: {command: [a]}}}}]}"
	for _, kind := range []string{
		"apiVersion: argoproj.io/v1alpha1, kind: Rollout", "apiVersion: apps.kruise.io/v1alpha1, kind: CloneSet",
		"apiVersion: apps.openshift.io/v1, kind: DeploymentConfig", "apiVersion: serving.knative.dev/v1, kind: Service",
	} {
		text := "{" + kind + ", metadata: {name: o}, spec: {lifecycle: {preDelete: {}}, template: {" + handlers + "}}}\n"
		result, report := Stream([]byte(text), inClass)
		if report.Moved != 1 || len(report.Refusals) > 0 || len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0].Text, "is taken for a pod template") {
			t.Errorf("%s: got %s, %v, %v", kind, result, report.Refusals, report.Warnings)
		}
		if again, report := Stream(result, inClass); string(again) != string(result) || report.Moved > 0 {
			t.Errorf("converted twice it is %s", again)
		}
	}
	text := "{apiVersion: ray.io/v1, kind: RayCluster, metadata: {name: r}, spec: {headGroupSpec: {template: {" + handlers + "}}, workerGroupSpecs: [{template: {" +
		handlers + "}}, {template: {" + handlers + "}}]}}\n"
	result, report := Stream([]byte(text), inClass)
	if string(result) != text || len(report.Warnings) != 3 {
		t.Errorf("got %s, %v", result, report.Warnings)
	}
	var paths []PodPath
	for _, flag := range []string{"RayCluster.ray.io=spec.headGroupSpec.template", "RayCluster=spec.workerGroupSpecs[*].template", "RayCluster.example.org=spec", "Other=spec"} {
		path, err := ParsePodPath(flag)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	result, report = Stream([]byte(text), inClass, paths...)
	if report.Moved != 3 || len(report.Warnings)+len(report.Refusals) > 0 || strings.Count(string(result), "a.lifecycle-shim.io/lifecycle") != 3 || strings.Contains(string(result), "lifecycle: {preStop") {
		t.Errorf("got %s, %v, %v", result, report.Warnings, report.Refusals)
	}
	if got := Validate(result, inClass, paths...); len(got.Checked) != 3 || len(got.Refusals)+len(got.Warnings) > 0 {
		t.Errorf("validate says %+v", got)
	}
	for _, flag := range []string{"", "RayCluster", "=spec", "RayCluster=", "RayCluster=spec..template", "RayCluster=spec[0]", "Ray Cluster=spec"} {
		if _, err := ParsePodPath(flag); err == nil {
			t.Errorf("%q is accepted", flag)
		}
	}
}

// FAULTS B8: a sidecar's postStart is moved, and its preStop stays with the kubelet,
// unless the pod says otherwise.
//
// See docs/spec.md#sidecars.
func TestB8Sidecars(t *testing.T) {
	const both = "{postStart: {exec: {command: [b]}}, preStop: {exec: {command: [a]}}}"
	for name, test := range map[string]struct {
		lifecycle, annotations string
		native, annotation     string
		refused                string
	}{
		"both":     {lifecycle: both, native: "preStop", annotation: `{"postStart":{"exec":{"command":["b"]}},"terminationGracePeriodSeconds":30}`},
		"Keep":     {lifecycle: both, annotations: "{lifecycle-shim.io/sidecars: Keep}", native: "preStop", annotation: `{"postStart":{"exec":{"command":["b"]}},"terminationGracePeriodSeconds":30}`},
		"Move":     {lifecycle: both, annotations: "{lifecycle-shim.io/sidecars: Move}", annotation: `{"postStart":{"exec":{"command":["b"]}},"preStop":{"exec":{"command":["a"]}},"terminationGracePeriodSeconds":30}`},
		"misspelt": {lifecycle: both, annotations: "{lifecycle-shim.io/sidecars: move}", refused: `annotation "lifecycle-shim.io/sidecars" is "move"; Move or Keep is allowed`},
		"misspelt, preStop only": {
			lifecycle: preStop, annotations: "{lifecycle-shim.io/sidecars: move}", refused: `annotation "lifecycle-shim.io/sidecars" is "move"; Move or Keep is allowed`,
		},
		"annotated with the same": {lifecycle: preStop, annotations: "{s.lifecycle-shim.io/lifecycle: 'preStop: {exec: {command: [a]}}'}", annotation: "preStop: {exec: {command: [a]}}"},
		"annotated with another":  {lifecycle: preStop, annotations: "{s.lifecycle-shim.io/lifecycle: 'preStop: {exec: {command: [x]}}'}", refused: "is not what the annotation"},
		"annotated with postStart": {
			lifecycle: preStop, annotations: "{s.lifecycle-shim.io/lifecycle: 'postStart: {exec: {command: [x]}}'}", native: "preStop", annotation: "postStart: {exec: {command: [x]}}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			text := fixture{lifecycle: "{}", spec: ", initContainers: [{name: s, restartPolicy: Always, lifecycle: " + test.lifecycle + "}]", annotations: test.annotations}.yaml()
			if _, report := Stream([]byte(text), inClass); test.refused != "" {
				if len(report.Refusals) != 1 || !strings.Contains(report.Refusals[0].Text, test.refused) {
					t.Errorf("got %v", report.Refusals)
				}
				return
			}
			pod := convertOne(t, text)
			var native []string
			for kind := range pod.Spec.InitContainers[0].Lifecycle {
				native = append(native, kind)
			}
			if strings.Join(native, " ") != test.native || pod.Metadata.Annotations["s.lifecycle-shim.io/lifecycle"] != test.annotation {
				t.Errorf("the kubelet runs %v, the annotation is %q", native, pod.Metadata.Annotations["s.lifecycle-shim.io/lifecycle"])
			}
		})
	}
}

// manyContainers is FAULTS A3's input: a pod of n containers with a handler each.
func manyContainers(n int, lifecycle string) []byte {
	var text strings.Builder
	text.WriteString(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"runtimeClassName":"lifecycle","containers":[`)
	for i := range n {
		if i > 0 {
			text.WriteByte(',')
		}
		fmt.Fprintf(&text, `{"name":"c%d","image":"x","lifecycle":%s}`, i, lifecycle)
	}
	text.WriteString("]}}")
	return []byte(text.String())
}

// FAULTS A3: the work is linear in the containers, in what is allocated and, by the
// benchmark, in time. Most refusals of the kind would be as many words.
func TestA3Linear(t *testing.T) {
	for name, lifecycle := range map[string]string{
		"moved": `{"preStop":{"sleep":{"seconds":1}}}`, "refused": `{"preStop":{"sleep":{"seconds":-1}}}`, "misspelt": `{"prestop":{}}`, "none": `null`,
	} {
		t.Run(name, func(t *testing.T) {
			cost := func(n int) uint64 {
				text := manyContainers(n, lifecycle)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				if _, _, err := Pod(t.Context(), text, inClass); err != nil {
					t.Fatal(err)
				}
				runtime.ReadMemStats(&after)
				return after.TotalAlloc - before.TotalAlloc
			}
			cost(100) // fills caches
			if small, large := cost(500), cost(4000); large > 10*small+1<<20 {
				t.Errorf("500 containers allocate %d bytes, and 8 times as many %d", small, large)
			}
		})
	}
	_, report, err := Pod(t.Context(), manyContainers(8000, `{"preStop":{"sleep":{"seconds":-1}}}`), inClass)
	if err != nil || len(report.Refusals) != maxRefusals+1 || !strings.Contains(report.Refusals[maxRefusals].Text, "7900 more containers are not checked") {
		t.Errorf("got %d refusals, %v", len(report.Refusals), err)
	}
}

func BenchmarkA3Containers(b *testing.B) {
	for _, n := range []int{1000, 8000} {
		text := manyContainers(n, `{"preStop":{"sleep":{"seconds":1}}}`)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			begin := processorTime(b)
			for b.Loop() {
				if _, _, err := Pod(b.Context(), text, inClass); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((processorTime(b)-begin).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

// processorTime is that of this process, so that a busy machine does not count.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// FAULTS A3: the work ends with its client.
func TestA3WorkEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	operations, report, err := Pod(ctx, manyContainers(10, preStopJSON), inClass)
	if !errors.Is(err, context.Canceled) || operations != nil || report != nil {
		t.Errorf("got %v, %v, %v", operations, report, err)
	}
	report = &Report{}
	tree, _ := decodeObject(manyContainers(10, preStopJSON))
	if operations := convertPod(ctx, report, inClass, "Pod/p", nil, tree); operations != nil || report.Moved != 0 {
		t.Errorf("got %v, %d moved", operations, report.Moved)
	}
}

const preStopJSON = `{"preStop":{"sleep":{"seconds":1}}}`

// What an API server would never store is refused before it costs memory.
func TestA3Bounds(t *testing.T) {
	pod := func(spec, metadata string) []byte {
		return []byte(`{"metadata":{` + metadata + `},"spec":{"runtimeClassName":"lifecycle",` + spec + `}}`)
	}
	for name, text := range map[string][]byte{
		"containers":  pod(`"containers":[`+strings.Repeat("{},", 1<<20)+"{}]", ""),
		"a lifecycle": pod(`"containers":[{"lifecycle":{"preStop":{"exec":{"command":[`+strings.Repeat(`"",`, 1<<20)+`""]}}}}]`, ""),
		"ports":       pod(`"containers":[{"lifecycle":`+preStopJSON+`,"ports":[`+strings.Repeat("{},", 1<<20)+"{}]}]", ""),
		"annotations": pod(`"containers":[]`, `"annotations":{"a":"`+strings.Repeat("x", 2<<20)+`"}`),
		"affinity":    pod(`"containers":[],"affinity":[`+strings.Repeat("[],", 1<<20)+"[]]", ""),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, report, err := Pod(t.Context(), text, inClass)
		runtime.ReadMemStats(&after)
		if err != nil || len(report.Refusals) != 1 || !strings.Contains(report.Refusals[0].Text, "which no API server stores") {
			t.Errorf("%s: got %v, %v", name, report, err)
		}
		if cost := after.TotalAlloc - before.TotalAlloc; cost > 64<<20 {
			t.Errorf("%s: %d bytes are allocated for a text of %d", name, cost, len(text))
		}
	}
	env := pod(`"containers":[{"name":"a","env":[`+strings.Repeat(`{"name":"x","value":"y"},`, 200_000)+`{"name":"z"}],"lifecycle":`+preStopJSON+`}]`, "")
	if operations, report, err := Pod(t.Context(), env, inClass); err != nil || len(operations) != 3 || len(report.Refusals) > 0 {
		t.Errorf("what is not read counts: %v, %v, %v", len(operations), report.Refusals, err)
	}
}

// items must find what encoding/json finds.
func TestItems(t *testing.T) {
	for list, want := range map[string][]string{
		"": nil, "null": nil, "{}": nil, "[]": nil, "[ ]": nil, "[1]": {"1"}, "[ 1 , {\"a\":[1,2]} ]": {"1", `{"a":[1,2]}`},
		`["a,b","]\"",[[],[]]]`: {`"a,b"`, `"]\""`, "[[],[]]"}, `[{"a":"\\"},{"b":"\\\","}]`: {`{"a":"\\"}`, `{"b":"\\\","}`},
	} {
		var got []string
		for item := range items(text(list)) {
			got = append(got, string(item))
		}
		if !slices.Equal(got, want) {
			t.Errorf("of %s there is %q, want %q", list, got, want)
		}
	}
}

// Names of any length are cut where they are shown, so that words are bounded.
func TestWordsAreBounded(t *testing.T) {
	long := strings.Repeat("ä", 1<<16)
	for name, text := range map[string]string{
		"a container": `{"metadata":{"name":"p"},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"` + long + `","lifecycle":` + preStopJSON + `}]}}`,
		"the pod":     `{"metadata":{"name":"` + long + `"},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"A","lifecycle":` + preStopJSON + `}]}}`,
		"a field":     `{"metadata":{"name":"p"},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"a","lifecycle":{"` + long + `":1}}]}}`,
		"a port":      `{"metadata":{"name":"p"},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"a","lifecycle":{"preStop":{"httpGet":{"port":"` + long + `"}}}}]}}`,
		"sidecars":    `{"metadata":{"annotations":{"` + oci.KeySidecars + `":"` + long + `"}},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"a","lifecycle":` + preStopJSON + `}]}}`,
	} {
		_, report, err := Pod(t.Context(), []byte(text), inClass)
		if err != nil || len(report.Refusals) != 1 {
			t.Fatalf("%s: got %v, %v", name, report, err)
		}
		if got := report.Refusals[0].String(); len(got) > 2048 || !strings.Contains(got, "…") {
			t.Errorf("%s: %d bytes are said: %.300s", name, len(got), got)
		}
	}
}
