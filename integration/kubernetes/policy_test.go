package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/google/go-cmp/cmp"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
	"github.com/lifecycle-shim/lifecycle-shim/internal/podgen"
)

const deployDir = "../../deploy/kubernetes"

// generatedPods is how many pods the policy and the converter are compared on.
const generatedPods = 1000

// startAPI runs an API server until the test ends. ctx bounds the start.
func startAPI(ctx context.Context, t *testing.T) *cluster.API {
	t.Helper()
	api, err := cluster.StartAPI(ctx, binDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	return api
}

// startPolicies runs an API server in which deploy/'s policies are in force. It has no node: pods are admitted, and
// go no further.
func startPolicies(t *testing.T) *cluster.API {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	api := startAPI(ctx, t)
	applyPolicies(ctx, t, api)
	return api
}

// applyPolicies returns when all three are in force: the API server learns of them a moment later.
func applyPolicies(ctx context.Context, t *testing.T, api *cluster.API) {
	t.Helper()
	for _, file := range []string{"runtimeclass.yaml", "policy.yaml"} {
		if _, err := api.Kubectl(ctx, "apply", "-f", filepath.Join(deployDir, file)); err != nil {
			t.Fatal(err)
		}
	}
	waitPolicies(ctx, t, api)
}

func waitPolicies(ctx context.Context, t *testing.T, api *cluster.API) {
	t.Helper()
	moved := onePod(&core.Lifecycle{PreStop: sleep(1)})
	refused := onePod(&core.Lifecycle{PreStop: tcp(intstr.FromString("nowhere"), "")})
	warned := sidecarPod(&core.Lifecycle{PreStop: sleep(1)}, nil)
	err := harness.Poll(ctx, limit, "the policies", func() (bool, error) {
		pods, err := admit(ctx, t, api, moved)
		if err != nil || pods[0].Spec.Containers[0].Lifecycle != nil {
			return false, nil //nolint:nilerr // one policy is in force before the other
		}
		_, err = admit(ctx, t, api, refused)
		_, warning := admit(ctx, t, api, warned, "--warnings-as-errors")
		return err != nil && warning != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPolicy: deploy/'s policies in an API server.
func TestPolicy(t *testing.T) {
	t.Parallel()
	api := startPolicies(t)
	for name, test := range map[string]func(*testing.T, *cluster.API){
		"writes what convert writes": policyWritesWhatConvertWrites, "refuses": policyRefuses, "leaves alone": policyLeavesAlone, "warns": policyWarns,
		"whoever sets the class": policyWhoeverSetsTheClass, "twice": policyTwice, "sidecars": policySidecars,
		"sidecars by hand": policySidecarsByHand,
	} {
		t.Run(name, func(t *testing.T) { test(t, api) })
	}
	t.Run("Windows", func(t *testing.T) { policyLeavesWindowsAlone(t, api) }) // changes the RuntimeClass
}

// admit returns the objects as the API server would store them.
func admit(ctx context.Context, t *testing.T, api *cluster.API, manifest any, flags ...string) ([]core.Pod, error) {
	t.Helper()
	out, err := api.Kubectl(ctx, append([]string{
		"create", "--dry-run=server", "--validate=false", "-o", "json", "-f", manifestFile(t, manifest),
	}, flags...)...)
	if err != nil {
		return nil, err
	}
	var pods []core.Pod
	for decoder := json.NewDecoder(strings.NewReader(out)); decoder.More(); { // one after the other
		var pod core.Pod
		if err := decoder.Decode(&pod); err != nil {
			return nil, err
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

func manifestFile(t *testing.T, manifest any) string {
	t.Helper()
	text, ok := manifest.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(manifest); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.CreateTemp(t.TempDir(), "*.json")
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

// convert is lifecyclectl's.
func convert(t *testing.T, manifest any) ([]byte, error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(binDir(), "lifecyclectl"), "convert", "-f", manifestFile(t, manifest))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// onePod has one container with this lifecycle.
func onePod(lifecycle *core.Lifecycle) core.Pod {
	return core.Pod{
		TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: meta.ObjectMeta{Name: "pod"},
		Spec: core.PodSpec{
			RuntimeClassName: ptr(cluster.RuntimeClass),
			Containers:       []core.Container{{Name: "app", Image: "app", Lifecycle: lifecycle}},
		},
	}
}

func sleep(seconds int64) *core.LifecycleHandler {
	return &core.LifecycleHandler{Sleep: &core.SleepAction{Seconds: seconds}}
}

func command(words ...string) *core.LifecycleHandler {
	return &core.LifecycleHandler{Exec: &core.ExecAction{Command: words}}
}

func tcp(port intstr.IntOrString, host string) *core.LifecycleHandler {
	return &core.LifecycleHandler{TCPSocket: &core.TCPSocketAction{Port: port, Host: host}}
}

func get(action core.HTTPGetAction) *core.LifecycleHandler {
	action.Port = intstr.FromInt32(80)
	return &core.LifecycleHandler{HTTPGet: &action}
}

// It makes of every pod what the converter makes of it, to the byte, and changes nothing else in it.
func policyWritesWhatConvertWrites(t *testing.T, api *cluster.API) {
	list := core.PodList{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "List"}}
	for seed := range uint64(generatedPods) {
		list.Items = append(list.Items, *podgen.Pod(seed))
	}
	byPolicy, err := admit(t.Context(), t, api, list)
	if err != nil {
		t.Fatal(err)
	}
	converted, err := convert(t, list)
	if err != nil {
		t.Fatal(err)
	}
	byConvert, err := admit(t.Context(), t, api, converted)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		list.Items[i].Spec.RuntimeClassName = nil
	}
	byNobody, err := admit(t.Context(), t, api, list)
	if err != nil {
		t.Fatal(err)
	}
	if len(byPolicy) != generatedPods || len(byConvert) != generatedPods || len(byNobody) != generatedPods {
		t.Fatalf("%d, %d and %d of %d pods", len(byPolicy), len(byConvert), len(byNobody), generatedPods)
	}
	moved := 0
	for seed := range byPolicy {
		moved += len(byPolicy[seed].Annotations) - len(byNobody[seed].Annotations)
		for _, pod := range []*core.Pod{&byPolicy[seed], &byConvert[seed], &byNobody[seed]} {
			pod.ObjectMeta = meta.ObjectMeta{Name: pod.Name, Annotations: pod.Annotations, Labels: pod.Labels} // without uid, times, …
		}
		if diff := cmp.Diff(byPolicy[seed], byConvert[seed]); diff != "" {
			t.Errorf("seed %d: the policy (-) and lifecyclectl convert (+) differ:\n%s", seed, diff)
		}
		restore(&byPolicy[seed], byNobody[seed])
		if diff := cmp.Diff(byPolicy[seed], byNobody[seed]); diff != "" {
			t.Errorf("seed %d: the policy (-) changes more than the handlers (+):\n%s", seed, diff)
		}
	}
	if moved < generatedPods {
		t.Errorf("only %d blocks were moved", moved)
	}
	t.Logf("%d blocks of %d pods", moved, generatedPods)
}

// restore what is to be changed.
func restore(pod *core.Pod, before core.Pod) {
	pod.Annotations, pod.Spec.RuntimeClassName = before.Annotations, nil
	pod.Spec.NodeSelector, pod.Spec.Overhead = before.Spec.NodeSelector, before.Spec.Overhead // which the RuntimeClass sets
	for _, pair := range [][2][]core.Container{
		{pod.Spec.Containers, before.Spec.Containers}, {pod.Spec.InitContainers, before.Spec.InitContainers},
	} {
		for i, was := range pair[1] {
			if was.Lifecycle == nil {
				continue
			}
			if pair[0][i].Lifecycle == nil {
				pair[0][i].Lifecycle = &core.Lifecycle{}
			}
			pair[0][i].Lifecycle.PostStart, pair[0][i].Lifecycle.PreStop = was.Lifecycle.PostStart, was.Lifecycle.PreStop
		}
	}
}

func asJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// What the shim would refuse is refused when the pod is made, by the policy and by the converter. What the API server
// would refuse without the policy it refuses still, in its own words: a handler is not moved past its checks.
func policyRefuses(t *testing.T, api *cluster.API) {
	const byPolicy = "RuntimeClass lifecycle cannot run the lifecycle handlers of container app."
	for name, test := range map[string]struct {
		handler *core.LifecycleHandler
		want    string
		// stricter: only the policy refuses it, which CEL's isURL reads. The kubelet and the shim escape such a path.
		stricter bool
	}{
		"a port of no name":     {tcp(intstr.FromString("nowhere"), ""), byPolicy, false},
		"a host by name":        {tcp(intstr.FromInt32(80), "example.com"), byPolicy, false},
		"a host with a zone":    {tcp(intstr.FromInt32(80), "fe80::1%eth0"), byPolicy, false},
		"no program":            {command("", "x"), byPolicy, false},
		"NUL in a command":      {command("sh", "a\x00b"), byPolicy, false},
		"a long command":        {command("sh", strings.Repeat("x", 65536)), byPolicy, false},
		"too many words":        {command(strings.Split(strings.Repeat("x ", 4097), " ")...), byPolicy, false},
		"a control character":   {get(core.HTTPGetAction{Path: "/a\nb"}), byPolicy, true},
		"a wrong escape":        {get(core.HTTPGetAction{Path: "/%zz"}), byPolicy, true},
		"a scheme in the path":  {get(core.HTTPGetAction{Path: "mailto:x"}), byPolicy, false},
		"a header of two lines": {get(core.HTTPGetAction{HTTPHeaders: []core.HTTPHeader{{Name: "X", Value: "a\nb"}}}), byPolicy, false},
		"a header that is none": {get(core.HTTPGetAction{HTTPHeaders: []core.HTTPHeader{{Name: "X Y", Value: "a"}}}), "a valid HTTP header", false},
		"a port out of range":   {tcp(intstr.FromInt32(65536), ""), "must be between 1 and 65535", false},
		"sleep above the grace": {sleep(31), "less than terminationGracePeriodSeconds", false},
		"two handlers at once":  {&core.LifecycleHandler{Exec: command("x").Exec, Sleep: sleep(1).Sleep}, "may not specify more than 1 handler type", false},
		"no handler":            {&core.LifecycleHandler{}, "must specify a handler type", false},
		"no command":            {command(), "command: Required value", false},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, lifecycle := range map[string]*core.Lifecycle{"postStart": {PostStart: test.handler}, "preStop": {PreStop: test.handler}} {
				pod := onePod(lifecycle)
				_, err := admit(t.Context(), t, api, pod)
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: the API server says: %v", kind, err)
				}
				out, err := convert(t, pod)
				if test.stricter {
					if err != nil {
						t.Errorf("%s: lifecyclectl convert says: %v", kind, err)
					}
					continue
				}
				if err == nil || len(out) > 0 || !strings.Contains(err.Error(), "container app: lifecycle") {
					t.Errorf("%s: lifecyclectl convert says: %v, and writes %q", kind, err, out)
				}
			}
		})
	}
}

// Pods of other classes keep their handlers, even if the shim would refuse them.
func policyLeavesAlone(t *testing.T, api *cluster.API) {
	other := onePod(&core.Lifecycle{PreStop: tcp(intstr.FromString("nowhere"), "")})
	other.Spec.RuntimeClassName = nil
	pods, err := admit(t.Context(), t, api, other)
	if err != nil {
		t.Fatal(err)
	}
	if got := pods[0]; got.Spec.Containers[0].Lifecycle == nil || got.Annotations != nil {
		t.Errorf("it is %s", asJSON(got))
	}
}

// What differs from the kubelet's handlers is reported to the author of the pod.
func policyWarns(t *testing.T, api *cluster.API) {
	lifecycle := &core.Lifecycle{PreStop: sleep(1)}
	for want, pod := range map[string]core.Pod{
		"the preStop of sidecar side stays with the kubelet":           sidecarPod(lifecycle, nil),
		"the preStop of sidecar side runs when the sidecar is stopped": sidecarPod(lifecycle, map[string]string{"lifecycle-shim.io/sidecars": "Move"}),
	} {
		_, err := admit(t.Context(), t, api, pod, "--warnings-as-errors")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no warning %q: %v", want, err)
		}
	}
	if _, err := admit(t.Context(), t, api, onePod(&core.Lifecycle{PreStop: sleep(1)}), "--warnings-as-errors"); err != nil {
		t.Errorf("a usual pod: %v", err)
	}
}
