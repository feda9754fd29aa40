package kubernetes

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/platform"
	"github.com/lifecycle-shim/lifecycle-shim/oci" //nolint:depguard // the policy is held to what the shim reads
)

// draws is how often the order of policies is drawn anew. A door that is asked only
// about pods with the class refuses 4 to 11 of 12.
const draws = 12

// platformPod does not name the class; the plugin of that name will set it.
func platformPod(plugin string, lifecycle *core.Lifecycle) core.Pod {
	pod := onePod(lifecycle)
	pod.Spec.RuntimeClassName = nil
	pod.Labels = map[string]string{platform.Label: plugin}
	return pod
}

// inForce waits until the plugin sets the class.
func inForce(ctx context.Context, t *testing.T, api *cluster.API, plugin string) {
	t.Helper()
	err := harness.Poll(ctx, limit, "plugin "+plugin, func() (bool, error) {
		pods, err := admit(ctx, t, api, platformPod(plugin, nil))
		return err == nil && pods[0].Spec.RuntimeClassName != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wantAdmitted: the plugin sets the class, and the door moves the handlers.
func wantAdmitted(t *testing.T, api *cluster.API, plugin string) {
	t.Helper()
	pods, err := admit(t.Context(), t, api, platformPod(plugin, &core.Lifecycle{PreStop: sleep(1)}))
	if err != nil {
		t.Errorf("%s: %v", plugin, err)
		return
	}
	got := pods[0]
	if got.Spec.RuntimeClassName == nil || got.Spec.Containers[0].Lifecycle != nil || got.Annotations["app.lifecycle-shim.io/lifecycle"] == "" {
		t.Errorf("%s: it is %s", plugin, asJSON(got))
	}
}

// FAULTS B1, the policy's half of the table: for any order of setting the class, the handlers are
// moved.
func policyWhoeverSetsTheClass(t *testing.T, api *cluster.API) {
	webhook := platform.StartWebhook()
	t.Cleanup(webhook.Close)
	for draw := range draws {
		plugin := fmt.Sprintf("%c-policy-%d", "az"[draw%2], draw)
		apply(t, api, platform.Policy(plugin)) // each change has the order drawn anew
		inForce(t.Context(), t, api, plugin)
		wantAdmitted(t, api, plugin)
	}
	for _, plugin := range []string{"a-webhook", "z-webhook"} {
		apply(t, api, webhook.Manifest(plugin, platform.SetClass))
		inForce(t.Context(), t, api, plugin)
		wantAdmitted(t, api, plugin)
	}
	const late = "z-late"
	apply(t, api, webhook.Manifest(late, platform.AddHandlers))
	err := harness.Poll(t.Context(), limit, "plugin "+late, func() (bool, error) {
		_, err := admit(t.Context(), t, api, platformPod(late, nil))
		return err != nil && strings.Contains(err.Error(), "added both the handlers and the class after MutatingAdmissionPolicy lifecycle-shim was asked"), nil
	})
	if err != nil {
		t.Error("a pod that has got both the class and a handler after the policy is let in, or refused in other words: ", err)
	}
}

// apply a manifest, until the test's end.
func apply(t *testing.T, api *cluster.API, manifest string) {
	t.Helper()
	if err := api.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	file := manifestFile(t, []byte(manifest))
	t.Cleanup(func() {
		if _, err := api.Kubectl(context.Background(), "delete", "--wait=false", "-f", file); err != nil {
			t.Error(err)
		}
	})
}

// FAULTS B2: pods for Windows are left alone, with a warning, also where they name the
// class.
func policyLeavesWindowsAlone(t *testing.T, api *cluster.API) {
	windows := func(edit func(*core.PodSpec)) core.Pod {
		pod := onePod(&core.Lifecycle{PreStop: sleep(1)})
		edit(&pod.Spec)
		return pod
	}
	affinity := func(operator core.NodeSelectorOperator, values ...string) *core.Affinity {
		terms := []core.NodeSelectorTerm{{MatchExpressions: []core.NodeSelectorRequirement{{Key: core.LabelOSStable, Operator: operator, Values: values}}}}
		return &core.Affinity{NodeAffinity: &core.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &core.NodeSelector{NodeSelectorTerms: terms}}}
	}
	options := &core.WindowsSecurityContextOptions{RunAsUserName: ptr("ContainerUser")}
	for name, test := range map[string]struct {
		edit  func(*core.PodSpec)
		moved bool
	}{
		"os":          {func(s *core.PodSpec) { s.OS = &core.PodOS{Name: core.Windows} }, false},
		"os is Linux": {func(s *core.PodSpec) { s.OS = &core.PodOS{Name: core.Linux} }, true},
		// The RuntimeClass adds kubernetes.io/os: linux to the nodeSelector, so the rest is for pods whose class is set later.
		"the RuntimeClass's nodeSelector": {func(s *core.PodSpec) { s.Affinity = affinity(core.NodeSelectorOpIn, "windows") }, true},
		"windowsOptions":                  {func(s *core.PodSpec) { s.SecurityContext = &core.PodSecurityContext{WindowsOptions: options} }, true},
	} {
		t.Run(name, func(t *testing.T) { wantWindows(t, api, windows(test.edit), test.moved) })
	}
	if _, err := api.Kubectl(t.Context(), "patch", "runtimeclass", "lifecycle", "--type=json", `-p=[{"op":"remove","path":"/scheduling"}]`); err != nil {
		t.Fatal(err)
	}
	err := harness.Poll(t.Context(), limit, "the RuntimeClass without a nodeSelector", func() (bool, error) {
		pods, err := admit(t.Context(), t, api, onePod(nil))
		return err == nil && pods[0].Spec.NodeSelector == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	either := affinity(core.NodeSelectorOpIn, "windows")
	required := either.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	required.NodeSelectorTerms = append(required.NodeSelectorTerms, core.NodeSelectorTerm{MatchExpressions: []core.NodeSelectorRequirement{{Key: "a", Operator: core.NodeSelectorOpExists}}})
	for name, test := range map[string]struct {
		edit  func(*core.PodSpec)
		moved bool
	}{
		"nodeSelector":            {func(s *core.PodSpec) { s.NodeSelector = map[string]string{core.LabelOSStable: "windows"} }, false},
		"the old nodeSelector":    {func(s *core.PodSpec) { s.NodeSelector = map[string]string{"beta.kubernetes.io/os": "windows"} }, false},
		"another nodeSelector":    {func(s *core.PodSpec) { s.NodeSelector = map[string]string{"a": "windows"} }, true},
		"affinity":                {func(s *core.PodSpec) { s.Affinity = affinity(core.NodeSelectorOpIn, "windows") }, false},
		"affinity not Linux":      {func(s *core.PodSpec) { s.Affinity = affinity(core.NodeSelectorOpNotIn, "linux") }, false},
		"affinity either system":  {func(s *core.PodSpec) { s.Affinity = affinity(core.NodeSelectorOpIn, "windows", "linux") }, true},
		"affinity an unlike term": {func(s *core.PodSpec) { s.Affinity = either }, true},
		"windowsOptions":          {func(s *core.PodSpec) { s.SecurityContext = &core.PodSecurityContext{WindowsOptions: options} }, false},
		"windowsOptions of one": {func(s *core.PodSpec) {
			s.Containers[0].SecurityContext = &core.SecurityContext{WindowsOptions: options}
		}, false},
		"windowsOptions and on Linux": {func(s *core.PodSpec) {
			s.SecurityContext, s.NodeSelector = &core.PodSecurityContext{WindowsOptions: options}, map[string]string{core.LabelOSStable: "linux"}
		}, true},
	} {
		t.Run(name, func(t *testing.T) { wantWindows(t, api, windows(test.edit), test.moved) })
	}
}

func wantWindows(t *testing.T, api *cluster.API, pod core.Pod, moved bool) {
	t.Helper()
	pods, err := admit(t.Context(), t, api, pod)
	if err != nil {
		t.Fatal(err)
	}
	if got := pods[0].Spec.Containers[0].Lifecycle == nil; got != moved {
		t.Errorf("moved: %t, it is %s", got, asJSON(pods[0]))
	}
	_, err = admit(t.Context(), t, api, pod, "--warnings-as-errors")
	if warned := err != nil && strings.Contains(err.Error(), "the pod is for Windows"); warned == moved {
		t.Errorf("warned: %v", err)
	}
}

// FAULTS B5: native handlers go where an annotation says the same, and are refused where
// it says something else.
func policyTwice(t *testing.T, api *cluster.API) {
	const block = `{"preStop":{"sleep":{"seconds":1}},"terminationGracePeriodSeconds":30}`
	for key, value := range map[string]string{"app.lifecycle-shim.io/lifecycle": block, "lifecycle-shim.io/lifecycle": block} {
		pod := onePod(&core.Lifecycle{PreStop: sleep(1)})
		pod.Annotations = map[string]string{key: value}
		pods, err := admit(t.Context(), t, api, pod)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if got := pods[0]; got.Spec.Containers[0].Lifecycle != nil || len(got.Annotations) != 1 || got.Annotations[key] != value {
			t.Errorf("%s: it is %s", key, asJSON(got))
		}
	}
	for name, annotations := range map[string]map[string]string{
		"another":               {"app.lifecycle-shim.io/lifecycle": strings.Replace(block, ":1}", ":2}", 1)},
		"an empty block":        {"app.lifecycle-shim.io/lifecycle": "{}"},
		"the command line's":    {"lifecycle-shim.io/preStop": "sleep: {seconds: 1}"},
		"another, for all":      {"lifecycle-shim.io/lifecycle": "{}"},
		"one that has not both": {"app.lifecycle-shim.io/lifecycle": `{"postStart":{"sleep":{"seconds":1}},"terminationGracePeriodSeconds":30}`},
	} {
		pod := onePod(&core.Lifecycle{PreStop: sleep(1)})
		pod.Annotations = annotations
		if _, err := admit(t.Context(), t, api, pod); err == nil || !strings.Contains(err.Error(), "container app has lifecycle handlers and an annotation") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sidecarPod has one sidecar with this lifecycle.
func sidecarPod(lifecycle *core.Lifecycle, annotations map[string]string) core.Pod {
	pod := onePod(nil)
	pod.Annotations = annotations
	pod.Spec.InitContainers = []core.Container{{
		Name: "side", Image: "app", RestartPolicy: ptr(core.ContainerRestartPolicyAlways), Lifecycle: lifecycle,
	}}
	return pod
}

// FAULTS B8: a sidecar's preStop stays with the kubelet, unless the pod says otherwise.
func policySidecars(t *testing.T, api *cluster.API) {
	const key, side = "lifecycle-shim.io/sidecars", "side.lifecycle-shim.io/lifecycle"
	const postStart = `{"postStart":{"exec":{"command":["\"preStop\":","preStop: {}"]}},"terminationGracePeriodSeconds":30}`
	const preStop = `{"preStop":{"sleep":{"seconds":1}},"terminationGracePeriodSeconds":30}`
	both := &core.Lifecycle{PostStart: command(`"preStop":`, "preStop: {}"), PreStop: sleep(1)}
	for name, test := range map[string]struct {
		lifecycle       *core.Lifecycle
		annotations     map[string]string
		native          bool
		becomes, refuse string
	}{
		"both":                           {both, nil, true, postStart, ""},
		"Keep":                           {both, map[string]string{key: "Keep"}, true, postStart, ""},
		"preStop":                        {&core.Lifecycle{PreStop: sleep(1)}, nil, true, "", ""},
		"moved":                          {&core.Lifecycle{PreStop: sleep(1)}, map[string]string{key: "Move"}, false, preStop, ""},
		"annotated with the other":       {&core.Lifecycle{PreStop: sleep(1)}, map[string]string{side: postStart}, true, postStart, ""},
		"annotated with the same":        {&core.Lifecycle{PreStop: sleep(1)}, map[string]string{side: preStop}, false, preStop, ""},
		"annotated with another":         {&core.Lifecycle{PreStop: sleep(2)}, map[string]string{side: preStop}, false, "", "container side has lifecycle handlers and an annotation"},
		"annotated with another by hand": {&core.Lifecycle{PreStop: sleep(2)}, map[string]string{side: "preStop: {sleep: {seconds: 1}}"}, false, "", "container side has lifecycle handlers and an annotation"},
		"misspelt":                       {&core.Lifecycle{PreStop: sleep(1)}, map[string]string{key: "move"}, false, "", "annotation lifecycle-shim.io/sidecars: Move or Keep is allowed"},
		"by hand with the other":         {&core.Lifecycle{PreStop: sleep(1)}, map[string]string{side: `postStart: {exec: {command: ["a"]}}`}, true, `postStart: {exec: {command: ["a"]}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pods, err := admit(t.Context(), t, api, sidecarPod(test.lifecycle, test.annotations))
			if test.refuse != "" {
				if err == nil || !strings.Contains(err.Error(), test.refuse) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := pods[0]
			lifecycle := got.Spec.InitContainers[0].Lifecycle
			if native := lifecycle != nil && lifecycle.PreStop != nil; native != test.native || lifecycle != nil && lifecycle.PostStart != nil || got.Annotations[side] != test.becomes {
				t.Errorf("it is %s", asJSON(got))
			}
		})
	}
}

// The kubelet would run a sidecar's preStop and the shim another, however the annotation
// spells the key.
func policySidecarsByHand(t *testing.T, api *cluster.API) {
	for _, value := range []string{
		`{ "preStop": {"sleep": {"seconds": 2}}}`,
		`{"preStop" : {"sleep": {"seconds": 2}}}`,
		`"preStop": {sleep: {seconds: 2}}`,
		`'preStop': {sleep: {seconds: 2}}`,
		"{\"postStart\": {sleep: {seconds: 1}}, preStop: {sleep: {seconds: 2}}}",
		"? preStop\n: {sleep: {seconds: 2}}",
		"!!str preStop: {sleep: {seconds: 2}}",
		"&a preStop: {sleep: {seconds: 2}}",
		`{"pre\u0053top":{"sleep":{"seconds":2}}}`,
		`"pre\x53top": {sleep: {seconds: 2}}`,
	} {
		block, problems := oci.Parse(value, oci.Limits{})
		if block.GetPreStop() == nil || len(problems) > 0 {
			t.Errorf("%s: the shim would not run it: %v", value, problems)
		}
		pod := sidecarPod(&core.Lifecycle{PreStop: sleep(1)}, map[string]string{"side.lifecycle-shim.io/lifecycle": value})
		if _, err := admit(t.Context(), t, api, pod); err == nil || !strings.Contains(err.Error(), "container side has lifecycle handlers and an annotation") {
			t.Errorf("%s: got %v", value, err)
		}
	}
}

// Variables of one name are the same in all policies of policy.yaml.
func TestPolicyVariables(t *testing.T) {
	text, err := os.ReadFile(deployDir + "/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	shared := 0
	for _, document := range strings.Split(string(text), "\n---\n") {
		var policy struct {
			Spec struct {
				Variables []struct{ Name, Expression string }
			}
		}
		if err := yaml.Unmarshal([]byte(document), &policy); err != nil {
			t.Fatal(err)
		}
		for _, variable := range policy.Spec.Variables {
			before, ok := seen[variable.Name]
			if ok && before != variable.Expression {
				t.Errorf("%s is not the same everywhere", variable.Name)
			}
			if ok {
				shared++
			}
			seen[variable.Name] = variable.Expression
		}
	}
	if shared < 5 {
		t.Errorf("only %d variables are shared: the file is of another form", shared)
	}
}
