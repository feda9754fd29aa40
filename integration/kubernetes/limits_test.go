package kubernetes

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

// limits are what the tests fill into the policies, as flags of lifecyclectl.
var limits = []string{"--max-timeout=20s", "--max-grace-period=25s", "--allowed-handlers=exec,httpGet,sleep"}

// limitedPolicy is policy.yaml with the same limits in its variables, as a chart fills them in.
func limitedPolicy(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deployDir, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	filled := string(text)
	for name, value := range map[string][2]string{
		"maxTimeout": {`"''"`, `"'20s'"`}, "maxGracePeriod": {`"''"`, `"'25s'"`},
		"allowedHandlers": {`"['exec', 'httpGet', 'tcpSocket', 'sleep']"`, `"['exec', 'httpGet', 'sleep']"`},
	} {
		variable := "  - name: " + name + "\n    expression: "
		if n := strings.Count(filled, variable+value[0]+"\n"); n != 2 {
			t.Fatalf("policy.yaml has %s without a limit %d times, not once in each of two policies", name, n)
		}
		filled = strings.ReplaceAll(filled, variable+value[0], variable+value[1])
	}
	return filled
}

// startLimited runs an API server whose policies have the limits.
func startLimited(t *testing.T) *cluster.API {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	api := startAPI(ctx, t)
	if _, err := api.Kubectl(ctx, "apply", "-f", filepath.Join(deployDir, "runtimeclass.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := api.Apply(ctx, limitedPolicy(t)); err != nil {
		t.Fatal(err)
	}
	err := harness.Poll(ctx, limit, "the policies", func() (bool, error) {
		pods, err := admit(ctx, t, api, onePod(&core.Lifecycle{PreStop: sleep(1)}))
		if err != nil || pods[0].Spec.Containers[0].Lifecycle != nil {
			return false, nil //nolint:nilerr // one policy is in force before the other
		}
		_, err = admit(ctx, t, api, onePod(&core.Lifecycle{PreStop: tcp(intstr.FromInt32(80), "")}))
		return err != nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// TestLimits: docs/spec.md#operator-limits. The policy refuses what lifecyclectl refuses, in the same words.
func TestLimits(t *testing.T) {
	t.Parallel()
	api := startLimited(t)
	for name, test := range map[string]func(*testing.T, *cluster.API){
		"native handlers": limitsOfNative, "annotations": limitsOfAnnotations, "the default grace period": limitsCutTheDefault,
		"many": limitsOfMany, "large": limitsOfLarge, "left to the kubelet": limitsLeaveTheKubelet,
	} {
		t.Run(name, func(t *testing.T) { test(t, api) })
	}
}

func graced(pod core.Pod, seconds int64) core.Pod {
	pod.Spec.TerminationGracePeriodSeconds = &seconds
	return pod
}

func annotated(key, value string) core.Pod {
	pod := onePod(nil)
	pod.Annotations = map[string]string{key: value}
	return pod
}

// ctl is lifecyclectl's answer about a pod, with the limits.
func ctl(t *testing.T, subcommand string, pod core.Pod) (string, error) {
	t.Helper()
	arguments := append([]string{subcommand, "-f", manifestFile(t, pod)}, limits...)
	out, err := exec.CommandContext(t.Context(), filepath.Join(binDir(), "lifecyclectl"), arguments...).CombinedOutput()
	return string(out), err
}

// wantBoth: the API server and lifecyclectl refuse the pod with these words, or accept it if they are empty.
func wantBoth(t *testing.T, api *cluster.API, pod core.Pod, byPolicy, subcommand, byCtl string) {
	t.Helper()
	_, err := admit(t.Context(), t, api, pod)
	out, ctlErr := ctl(t, subcommand, pod)
	if byPolicy == "" {
		if err != nil || ctlErr != nil {
			t.Errorf("the API server says %v, lifecyclectl %s", err, out)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), byPolicy) {
		t.Errorf("the API server does not say %q: %v", byPolicy, err)
	}
	if ctlErr == nil || !strings.Contains(out, byCtl) {
		t.Errorf("lifecyclectl does not say %q: %s", byCtl, out)
	}
}

const (
	aboveTimeout = " is 21; the operator's limit MaxTimeout is 20"
	aboveGrace   = "is 26; the operator's limit MaxGracePeriod is 25"
	notAllowed   = "is of type tcpSocket; the operator's limit AllowedHandlers is exec, httpGet, sleep"
)

func limitsOfNative(t *testing.T, api *cluster.API) {
	connect := tcp(intstr.FromInt32(80), "")
	for name, test := range map[string]struct {
		pod  core.Pod
		want string // empty if it is admitted
	}{
		"a type":                   {onePod(&core.Lifecycle{PreStop: connect}), "container app: lifecycle.preStop: " + notAllowed},
		"a type in postStart":      {onePod(&core.Lifecycle{PostStart: connect, PreStop: sleep(1)}), "container app: lifecycle.postStart: " + notAllowed},
		"a sleep":                  {onePod(&core.Lifecycle{PreStop: sleep(21)}), "container app: lifecycle.preStop.sleep.seconds:" + aboveTimeout},
		"the longest sleep":        {onePod(&core.Lifecycle{PreStop: sleep(20)}), ""},
		"a grace period":           {graced(onePod(&core.Lifecycle{PreStop: sleep(1)}), 26), "container app: terminationGracePeriodSeconds: " + aboveGrace},
		"the longest grace period": {graced(onePod(&core.Lifecycle{PreStop: sleep(1)}), 25), ""},
	} {
		t.Run(name, func(t *testing.T) { wantBoth(t, api, test.pod, test.want, "convert", test.want) })
	}
}

// limitsOfAnnotations: the policy cannot say to which handler a number belongs.
func limitsOfAnnotations(t *testing.T, api *cluster.API) {
	const key, all = "app.lifecycle-shim.io/lifecycle", "lifecycle-shim.io/lifecycle"
	for name, test := range map[string]struct{ key, value, handler, want string }{
		"JSON":                 {key, `{"preStop":{"exec":{"command":["a"]},"timeoutSeconds":21}}`, "preStop.", "timeoutSeconds" + aboveTimeout},
		"JSON with spaces":     {key, `{"onExit": {"exec": {"command": ["a"]}, "timeoutSeconds" : 21}}`, "onExit.", "timeoutSeconds" + aboveTimeout},
		"YAML":                 {key, "preStart:\n  exec: {command: [a]}\n  timeoutSeconds: 21 # why\n", "preStart.", "timeoutSeconds" + aboveTimeout},
		"YAML in one line":     {"lifecycle-shim.io/postStart", "{exec: {command: [a]}, timeoutSeconds: 21}", "postStart.", "timeoutSeconds" + aboveTimeout},
		"for all":              {all, "preStop: {timeoutSeconds: 21, exec: {command: [a]}}", "preStop.", "timeoutSeconds" + aboveTimeout},
		"a retry period":       {key, "preStop: {exec: {command: [a]}, retryPeriodSeconds: 21}", "preStop.", "retryPeriodSeconds" + aboveTimeout},
		"a sleep":              {key, "onExit:\n  sleep:\n    seconds: 21\n", "onExit.", "sleep.seconds" + aboveTimeout},
		"a sleep in JSON":      {key, `{"onExit":{"sleep":{"seconds":21}}}`, "onExit.", "sleep.seconds" + aboveTimeout},
		"a grace period":       {key, "preStop: {exec: {command: [a]}}\nterminationGracePeriodSeconds: 26", "", "terminationGracePeriodSeconds " + aboveGrace},
		"grace period in JSON": {key, `{"preStop":{"sleep":{"seconds":1}},"terminationGracePeriodSeconds":26}`, "", "terminationGracePeriodSeconds " + aboveGrace},
		"a type":               {key, "preStop: {tcpSocket: {port: 80}}", "preStop ", notAllowed},
		"a type in lines":      {key, "preStop:\n  tcpSocket:\n    port: 80", "preStop ", notAllowed},
		"a type in JSON":       {key, `{"postStart":{"tcpSocket":{"port":80}}}`, "postStart ", notAllowed},
		"another's annotation": {"example.com/lifecycle", "preStop: {timeoutSeconds: 21}", "", ""},
		"at the limits":        {key, "preStop: {exec: {command: [a]}, timeoutSeconds: 20, retryPeriodSeconds: 20}\nterminationGracePeriodSeconds: 25", "", ""},
		"text in a command": {
			key, `{"preStop":{"exec":{"command":["a","timeoutSeconds: 21, \"timeoutSeconds\":21, \"tcpSocket\":{, {tcpSocket: {}}"]},"timeoutSeconds":20}}`, "", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			byPolicy := test.want
			if byPolicy != "" {
				byPolicy = fmt.Sprintf("annotation %q: %s", test.key, test.want)
			}
			wantBoth(t, api, annotated(test.key, test.value), byPolicy, "validate", test.handler+test.want)
		})
	}
}

// limitsCutTheDefault: docs/spec.md#operator-limits-unset. A pod has the API's default, 30, or its author has written it.
func limitsCutTheDefault(t *testing.T, api *cluster.API) {
	const want = `{"preStop":{"sleep":{"seconds":5}},"terminationGracePeriodSeconds":25}`
	for name, pod := range map[string]core.Pod{
		"unset": onePod(&core.Lifecycle{PreStop: sleep(5)}), "as the default": graced(onePod(&core.Lifecycle{PreStop: sleep(5)}), 30),
	} {
		pods, err := admit(t.Context(), t, api, pod)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := pods[0].Annotations["app.lifecycle-shim.io/lifecycle"]; got != want || *pods[0].Spec.TerminationGracePeriodSeconds != 30 {
			t.Errorf("%s: it is %s", name, asJSON(pods[0]))
		}
		if out, err := ctl(t, "convert", pod); err != nil || !strings.Contains(strings.ReplaceAll(out, `\"`, `"`), want) {
			t.Errorf("%s: lifecyclectl convert: %v, %s", name, err, out)
		}
	}
}

// limitsOfMany: an API server drops a message of more than 5 KiB.
func limitsOfMany(t *testing.T, api *cluster.API) {
	pod := onePod(&core.Lifecycle{PreStop: sleep(21)})
	for i := range 99 {
		pod.Spec.Containers = append(pod.Spec.Containers, core.Container{
			Name: fmt.Sprintf("%s-%d", strings.Repeat("x", 60), i), Image: "app", Lifecycle: &core.Lifecycle{PreStop: sleep(21)},
		})
	}
	_, err := admit(t.Context(), t, api, pod)
	if err == nil || !strings.Contains(err.Error(), "lifecycle.preStop.sleep.seconds:"+aboveTimeout+"; and 95 more") {
		t.Errorf("the API server says: %v", err)
	}
}

// limitsOfLarge: with limits, the policies read every annotation. They stay within the API server's cost limit.
func limitsOfLarge(t *testing.T, api *cluster.API) {
	many := onePod(nil)
	many.Spec.Containers = nil
	for i := range 200 {
		many.Spec.Containers = append(many.Spec.Containers, core.Container{
			Name: fmt.Sprintf("app-%d", i), Image: "app", Lifecycle: &core.Lifecycle{PostStart: command("sh", "-c", "true"), PreStop: sleep(20)},
		})
	}
	large := onePod(nil)
	large.Spec.Containers, large.Annotations = nil, map[string]string{}
	for i := range 3 {
		name := fmt.Sprintf("app-%d", i)
		large.Spec.Containers = append(large.Spec.Containers, core.Container{Name: name, Image: "app"})
		large.Annotations[name+".lifecycle-shim.io/lifecycle"] = "preStop:\n  timeoutSeconds: 20\n  exec:\n    command: [sh, -c, " + strings.Repeat("x", 60000) + "]\n"
	}
	for name, pod := range map[string]core.Pod{"200 containers": many, "three annotations of 60 KB": large} {
		if _, err := admit(t.Context(), t, api, pod); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// limitsLeaveTheKubelet: what the kubelet runs is not limited.
func limitsLeaveTheKubelet(t *testing.T, api *cluster.API) {
	other := onePod(&core.Lifecycle{PreStop: tcp(intstr.FromInt32(80), "")})
	other.Spec.RuntimeClassName = nil
	for name, pod := range map[string]core.Pod{
		"another class": other, "a sidecar's preStop": sidecarPod(&core.Lifecycle{PreStop: sleep(21), PostStart: sleep(1)}, nil),
	} {
		pods, err := admit(t.Context(), t, api, pod)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		kept := append(pods[0].Spec.Containers, pods[0].Spec.InitContainers...)
		if last := kept[len(kept)-1]; last.Lifecycle == nil || last.Lifecycle.PreStop == nil {
			t.Errorf("%s: it is %s", name, asJSON(pods[0]))
		}
	}
}
