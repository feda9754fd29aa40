package kubernetes

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// installChart with Helm, in an API server of its own, with these values; the API server's version chooses the policy.
func installChart(t *testing.T, helm string, values ...string) *cluster.API {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	api, err := cluster.StartAPI(ctx, binDir(), "--allow-privileged=true")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	args := []string{"install", "lifecycle-shim", "../../deploy/charts/lifecycle-shim", "--namespace", "lifecycle-shim", "--create-namespace"}
	command := exec.CommandContext(ctx, filepath.Join(binDir(), helm), append(args, values...)...)
	command.Env = []string{"HOME=" + api.Dir, "PATH=/usr/bin:/bin", "KUBECONFIG=" + api.Kubeconfig}
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", helm, err, out)
	}
	waitPolicies(ctx, t, api)
	return api
}

// TestChartPolicy: what the chart installs moves handlers for any order in which the class is set, refuses what it cannot
// move, and leaves alone what it should.
func TestChartPolicy(t *testing.T) {
	t.Parallel()
	api := installChart(t, "helm4")
	for name, test := range map[string]func(*testing.T, *cluster.API){
		"refuses": policyRefuses, "leaves alone": policyLeavesAlone, "warns": policyWarns, "whoever sets the class": policyWhoeverSetsTheClass,
		"twice": policyTwice, "sidecars": policySidecars, "sidecars by hand": policySidecarsByHand,
	} {
		t.Run(name, func(t *testing.T) { test(t, api) })
	}
	t.Run("Windows", func(t *testing.T) { policyLeavesWindowsAlone(t, api) }) // changes the RuntimeClass
}

// The chart's limits are the policy's.
func TestChartPolicyLimits(t *testing.T) {
	t.Parallel()
	api := installChart(t, "helm3", "--set", "limits.maxTimeout=20s,limits.allowedHandlers={sleep,tcpSocket}")
	for name, test := range map[string]struct {
		handler *core.LifecycleHandler
		want    string
	}{
		"within":  {sleep(20), ""},
		"longer":  {sleep(21), "the operator's limit MaxTimeout is 20"},
		"another": {command("true"), "the operator's limit AllowedHandlers is sleep, tcpSocket"},
	} {
		t.Run(name, func(t *testing.T) {
			pods, err := admit(t.Context(), t, api, onePod(&core.Lifecycle{PreStop: test.handler}))
			switch {
			case test.want == "" && (err != nil || pods[0].Spec.Containers[0].Lifecycle != nil):
				t.Errorf("not moved: %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// Another name of the RuntimeClass is the policy's, too: pods of the usual one are left alone.
func TestChartPolicyClass(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	api := startAPI(ctx, t)
	render := exec.CommandContext(ctx, filepath.Join(binDir(), "helm3"), "template", "lifecycle-shim", "../../deploy/charts/lifecycle-shim",
		"--kube-version", "1.37.0", "--set", "admission.mode=policy,runtimeClass.name=drains,installer.enabled=false",
		"-s", "templates/policy.yaml", "-s", "templates/runtimeclass.yaml")
	render.Stderr = os.Stderr
	manifest, err := render.Output()
	if err != nil {
		t.Fatal(err)
	}
	usual, err := os.ReadFile(deployDir + "/runtimeclass.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Apply(ctx, string(manifest)+"\n---\n"+string(usual)); err != nil {
		t.Fatal(err)
	}
	pod := onePod(&core.Lifecycle{PreStop: sleep(1)})
	other := *pod.DeepCopy()
	other.Spec.RuntimeClassName = ptr("drains")
	err = harness.Poll(ctx, limit, "the policy", func() (bool, error) {
		pods, err := admit(ctx, t, api, other)
		return err == nil && pods[0].Spec.Containers[0].Lifecycle == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pods, err := admit(ctx, t, api, pod); err != nil || pods[0].Spec.Containers[0].Lifecycle == nil {
		t.Errorf("a pod of the class lifecycle: %v, %v", pods, err)
	}
}

// The pod of `helm test` succeeds on a node, with programs of another image: its processes end at once, while their handlers
// run.
func TestHelmTestPod(t *testing.T) {
	b := on(t)
	render := exec.CommandContext(t.Context(), filepath.Join(binDir(), "helm3"), "template", "lifecycle-shim", "../../deploy/charts/lifecycle-shim",
		"--kube-version", "1.37.0", "-s", "templates/tests/handlers.yaml")
	render.Stderr = os.Stderr
	manifest, err := render.Output()
	if err != nil {
		t.Fatal(err)
	}
	const program = "/bin/lifecyclectl"
	var object core.Pod
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(string(manifest), program, "/bin/true")), &object); err != nil {
		t.Fatal(err)
	}
	if len(object.Spec.Containers) != 2 || strings.Count(string(manifest), program) != 5 {
		t.Fatalf("the pod has another form: %s", manifest)
	}
	for i := range object.Spec.Containers {
		object.Spec.Containers[i].Image = "nginx"
	}
	seen := b.events()
	p := &pod{b: b, name: object.Name}
	b.apply(asJSON(object), p)
	if err := b.Bind(t.Context(), p.name); err != nil {
		t.Fatal(err)
	}
	b.poll("the end of the pod", func() bool {
		phase := p.status().Phase
		return phase == core.PodSucceeded || phase == core.PodFailed
	})
	if status := p.status(); status.Phase != core.PodSucceeded {
		t.Errorf("it is %s", asJSON(core.Pod{Status: status}))
	}
	b.wantHandlers(seen, p.containerID("annotated"), "preStart Succeeded")
	b.wantHandlers(seen, p.containerID("native"), "postStart Succeeded Aborted")
}
