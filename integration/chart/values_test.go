package chart

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// whole are values that are objects of Kubernetes: they are looked at as one.
var whole = []string{"nodeSelector", "affinity", "resources", "podFixed", "issuerRef"}

// leaves are the values by their paths, such as installer.prefix.
func leaves(values map[string]any, at string, found map[string]any) map[string]any {
	for key, value := range values {
		inner, ok := value.(map[string]any)
		if ok && !slices.Contains(whole, key) && len(inner) > 0 {
			leaves(inner, at+key+".", found)
			continue
		}
		found[at+key] = value
	}
	return found
}

// without a leaf: the chart's default is used.
func without(t *testing.T, values map[string]any, path string) map[string]any {
	t.Helper()
	text, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	var copied map[string]any
	if err := json.Unmarshal(text, &copied); err != nil {
		t.Fatal(err)
	}
	inner := copied
	names := strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		inner, _ = inner[name].(map[string]any)
	}
	delete(inner, names[len(names)-1])
	return copied
}

// on are values that full.yaml leaves on, as by default, because others have no effect without them.
var on = map[string]bool{"installer.enabled": true, "runtimeClass.overhead.enabled": true}

// TestEveryValueHasAUse: full.yaml has another value for each, and without any one of them the chart renders something else.
func TestEveryValueHasAUse(t *testing.T) {
	defaults, full := readValues(t, chartDir+"/values.yaml"), readValues(t, "testdata/full.yaml")
	standard, other := leaves(defaults, "", map[string]any{}), leaves(full, "", map[string]any{})
	delete(standard, "settings") // empty; the schema has its keys
	for _, key := range settingsOfSchema(t) {
		standard["settings."+key] = nil
	}
	if diff := slices.DeleteFunc(slices.Sorted(maps.Keys(standard)), func(path string) bool { _, ok := other[path]; return ok }); len(diff) > 0 {
		t.Fatalf("testdata/full.yaml does not have %v", diff)
	}
	whole := must(t, "helm3", template("1.37.0", "-f", "testdata/full.yaml")...)
	for path, value := range other {
		if reflect.DeepEqual(value, standard[path]) != on[path] {
			t.Errorf("%s is %v in testdata/full.yaml, and %v in values.yaml", path, value, standard[path])
		}
		base, changed, args := whole, without(t, full, path), []string{}
		switch {
		case on[path]:
			args = []string{"--set", path + "=false"}
		case path == "image.tag": // the digest overrides it
			base = must(t, "helm3", template("1.37.0", "-f", valuesFile(t, without(t, full, "image.digest")))...)
			changed = without(t, changed, "image.digest")
		}
		if must(t, "helm3", template("1.37.0", append([]string{"-f", valuesFile(t, changed)}, args...)...)...) == base {
			t.Errorf("%s has no effect", path)
		}
	}
}

func settingsOfSchema(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(chartDir + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties struct {
			Settings struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	return slices.Collect(maps.Keys(schema.Properties.Settings.Properties))
}

// The limits apply wherever a handler passes: on the node, in the policy and in the webhook.
func TestLimitsAreEverywhere(t *testing.T) {
	limits := []string{"--set", "limits.maxTimeout=7m", "--set", "limits.maxGracePeriod=11m", "--set", "limits.allowedHandlers={exec,sleep}"}
	for version, wants := range map[string][]string{
		"1.37.0": {
			`expression: "'7m'"`, `expression: "'11m'"`, `expression: "['exec', 'sleep']"`,
			`MaxTimeout = "7m"`, `MaxGracePeriod = "11m"`, `AllowedHandlers = ["exec","sleep"]`,
		},
		"1.30.0": {
			"--max-timeout=7m\n", "--max-grace-period=11m\n", "--allowed-handlers=exec,sleep\n",
			`MaxTimeout = "7m"`, `MaxGracePeriod = "11m"`, `AllowedHandlers = ["exec","sleep"]`,
		},
	} {
		got := must(t, "helm3", template(version, limits...)...)
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s: nothing has %q", version, want)
			}
		}
	}
}

// `helm test` uses a type of handler that the limits allow, and none if they allow neither.
func TestTestPodWithinLimits(t *testing.T) {
	for allowed, want := range map[string][2]int{`[]`: {3, 0}, `["exec","sleep"]`: {3, 0}, `["sleep","httpGet"]`: {0, 3}, `["httpGet"]`: {0, 0}} {
		got := must(t, "helm3", template("1.37.0", "--set-json", "limits.allowedHandlers="+allowed, "-s", "templates/tests/handlers.yaml")...)
		objects(t, got)
		if is := [2]int{strings.Count(got, `{"exec":`), strings.Count(got, `{"sleep":`)}; is != want {
			t.Errorf("%s: %d exec and %d sleep, want %v:\n%s", allowed, is[0], is[1], want, got)
		}
	}
}

// Nothing is written to a node's config.toml unless a value asks for it.
func TestNoSettings(t *testing.T) {
	got := must(t, "helm3", template("1.37.0")...)
	for _, part := range []string{"--settings", "kind: ConfigMap", "checksum/settings"} {
		if strings.Contains(got, part) {
			t.Errorf("it has %q", part)
		}
	}
}

// The mode is auto: the policy if the cluster is new enough and has the kind, otherwise the webhook.
func TestAdmissionMode(t *testing.T) {
	const policy, webhook = "kind: MutatingAdmissionPolicy\n", "kind: MutatingWebhookConfiguration\n"
	old := []string{"template", "lifecycle-shim", chartDir, "--kube-version"}
	for _, test := range []struct {
		args []string
		want string
	}{
		{template("1.37.0"), policy},
		{template("1.36.0"), policy},
		{append(old, "1.36.0-gke.1200", "--api-versions", mutatingPolicies), policy},
		{append(old, "1.37.0"), webhook}, // the kind is turned off
		{append(old, "1.35.4", "--api-versions", mutatingPolicies), webhook},
		{template("1.28.0"), webhook},
		{template("1.37.0", "--set", "admission.mode=webhook"), webhook},
		{append(old, "1.37.0", "--set", "admission.mode=policy"), policy},
		{template("1.37.0", "--set", "admission.mode=none"), ""},
	} {
		for _, helm := range helms {
			got := must(t, helm, test.args...)
			for _, kind := range []string{policy, webhook} {
				if strings.Contains(got, "\n"+kind) != (kind == test.want) {
					t.Errorf("%s %v: %s is there: %t", helm, test.args, strings.TrimSpace(kind), kind != test.want)
				}
			}
		}
	}
}

// TestBadValues: a value that the chart does not know, or of another type, fails with a message that names it.
func TestBadValues(t *testing.T) {
	for _, test := range []struct{ set, want string }{
		{"nosuch=1", "'nosuch'"},
		{"image.regsitry=a", "'regsitry'"},
		{"installer.maxUnavailable=0", "/installer/maxUnavailable"},
		{"installer.maxUnavailable=25%", "/installer/maxUnavailable"},
		{"installer.restartBy=openrc", "/installer/restartBy"},
		{"installer.prefix=relative", "/installer/prefix"},
		{"installer.startupTaint=a b", "/installer/startupTaint"},
		{"installer.tolerations[0].operatr=Exists", "'operatr'"},
		{"installer.priorityClassName=a b", "/installer/priorityClassName"},
		{"webhook.replicas=two", "/webhook/replicas"},
		{"webhook.certManager.issuer=a", "'issuer'"},
		{"admission.mode=Policy", "/admission/mode"},
		{"runtimeClass.name=Lifecycle", "/runtimeClass/name"},
		{"runtimeClass.name=a'b", "/runtimeClass/name"},
		{"runtimeClass.overhead.podFixed.memory=lots", "/runtimeClass/overhead/podFixed/memory"},
		{"limits.maxTimeout=5", "/limits/maxTimeout"},
		{"limits.maxTimeout=1500ms", "/limits/maxTimeout"},
		{"limits.maxGracePeriod=soon", "/limits/maxGracePeriod"},
		{"limits.allowedHandlers={exec,grpc}", "/limits/allowedHandlers/1"},
		{"settings.MaxTimeout=5m", "'MaxTimeout'"},
		{"settings.OutputLimit=1048577", "/settings/OutputLimit"},
		{"settings.MetricsFile=relative", "/settings/MetricsFile"},
		{"uninstall.timeout=forever", "/uninstall/timeout"},
		{"image.digest=sha256:abc", "/image/digest"},
		{"image.pullPolicy=Sometimes", "/image/pullPolicy"},
	} {
		for _, helm := range helms {
			_, err := run(t.Context(), t, helm, template("1.37.0", "--set", test.set)...)
			if err == nil || !strings.Contains(err.Error(), "values don't meet the specifications of the schema") ||
				!strings.Contains(strings.ReplaceAll(err.Error(), ".", "/"), strings.ReplaceAll(test.want, ".", "/")) {
				t.Errorf("%s --set %s: %v", helm, test.set, err)
			}
		}
	}
	for _, helm := range helms {
		if _, err := run(t.Context(), t, helm, template("1.27.9")...); err == nil || !strings.Contains(err.Error(), "chart requires kubeVersion: >=1.28.0-0") {
			t.Errorf("%s for Kubernetes 1.27: %v", helm, err)
		}
	}
}

// The quotation marks of TOML and of CEL cannot be left by a value.
func TestSettingsAreTOML(t *testing.T) {
	got := must(t, "helm3", template("1.37.0", "-f", "testdata/full.yaml", "-s", "templates/settings.yaml")...)
	want := `  config.toml: |
    MaxTimeout = "5m"
    MaxGracePeriod = "10m"
    AllowedHandlers = ["exec","sleep"]
    DefaultGracePeriod = "20s"
    DefaultPostStartTimeout = "1m30s"
    HandlerOutput = "Log"
    MetricsFile = "/var/lib/prometheus/node-exporter/lifecycle.prom"
    OutputLimit = 1048576
`
	if !strings.Contains(got, want) {
		t.Errorf("want\n%s\nin\n%s", want, got)
	}
}
