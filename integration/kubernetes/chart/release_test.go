package chart

import (
	"encoding/base64"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRelease: the chart is installed as the cluster's version asks for, changed, put back, and removed.
func TestRelease(t *testing.T) {
	for _, helm := range helms {
		t.Run(helm, func(t *testing.T) {
			b := start(t)
			notes := b.helm(helm, "install", release, chartDir, "--create-namespace")
			for _, part := range []string{"moved by MutatingAdmissionPolicy lifecycle-shim", "runtimeClassName: lifecycle", "helm test lifecycle-shim -n lifecycle-shim"} {
				if !strings.Contains(notes, part) {
					t.Errorf("the notes do not have %q:\n%s", part, notes)
				}
			}
			first := b.ours()
			for _, object := range []string{
				"mutatingadmissionpolicy.admissionregistration.k8s.io/lifecycle-shim", "runtimeclass.node.k8s.io/lifecycle",
				"daemonset.apps/lifecycle-shim-installer", "validatingadmissionpolicy.admissionregistration.k8s.io/lifecycle-shim-installer",
			} {
				if !slices.Contains(first, object) {
					t.Errorf("%s is not installed: %q", object, first)
				}
			}
			b.helm(helm, "upgrade", release, chartDir, "--set", "admission.mode=webhook,limits.maxTimeout=5m")
			changed := b.ours()
			for object, there := range map[string]bool{
				"mutatingadmissionpolicy.admissionregistration.k8s.io/lifecycle-shim":      false,
				"mutatingwebhookconfiguration.admissionregistration.k8s.io/lifecycle-shim": true,
				"statefulset.apps/lifecycle-shim-webhook":                                  true,
				"configmap/lifecycle-shim-settings":                                        true,
			} {
				if slices.Contains(changed, object) != there {
					t.Errorf("after the upgrade %s is there: %t", object, !there)
				}
			}
			b.helm(helm, "rollback", release, "1")
			if back := b.ours(); !slices.Equal(back, first) {
				t.Errorf("after the rollback there is %q, at first there was %q", back, first)
			}
			if _, err := b.run(helm, "install", "another", chartDir); err == nil || !strings.Contains(err.Error(), "exists and cannot be imported") {
				t.Errorf("a second release: %v", err)
			}
			b.helm(helm, "uninstall", release, "--no-hooks") // no controller would run the Job
			if left := b.ours(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// emulated is the oldest version that the API server can be.
const emulated = "1.34"

// TestOlderCluster: a cluster without the policy's kind gets the webhook.
func TestOlderCluster(t *testing.T) {
	b := start(t, "--emulated-version="+emulated)
	if version := b.kubectl("version", "-o", "json"); !strings.Contains(version, `"emulationMinor": "`+strings.TrimPrefix(emulated, "1.")+`"`) {
		t.Fatalf("the API server is not of version %s: %s", emulated, version)
	}
	b.helm("helm4", "install", release, chartDir, "--create-namespace")
	installed := b.kubectl("get", "mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies,statefulsets", "-A", "-o", "name")
	want := []string{
		"mutatingwebhookconfiguration.admissionregistration.k8s.io/lifecycle-shim", "statefulset.apps/lifecycle-shim-webhook",
		"validatingadmissionpolicy.admissionregistration.k8s.io/lifecycle-shim-installer", "validatingwebhookconfiguration.admissionregistration.k8s.io/lifecycle-shim",
	}
	got := strings.Fields(installed)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("installed %q, want %q", got, want)
	}
}

// What the webhook writes, which the chart does not have: its authority in the configurations, its certificates and its
// Lease.
const (
	bundle = "LS0tLS1CRUdJTg=="
	holder = "lifecycle-shim-webhook-1"
)

func (b *bench) writeAsWebhook() {
	b.Helper()
	for kind, entries := range map[string][]string{
		"mutatingwebhookconfiguration": {"pods-0", "pods-1"}, "validatingwebhookconfiguration": {"check"},
	} {
		var webhooks []string
		for _, entry := range entries {
			webhooks = append(webhooks, `{"name":"`+entry+`.lifecycle-shim.io","clientConfig":{"caBundle":"`+b.authority()+`"}}`)
		}
		b.kubectl("patch", kind, "lifecycle-shim", "--field-manager=lifecycle-webhook", "-p", `{"webhooks":[`+strings.Join(webhooks, ",")+`]}`)
	}
	b.kubectl("patch", "-n", namespace, "secret", "lifecycle-shim-webhook", "--field-manager=lifecycle-webhook", "-p", `{"data":{"ca.key":"`+bundle+`"}}`)
	b.kubectl("patch", "-n", namespace, "lease", "lifecycle-shim-webhook", "--field-manager=lifecycle-webhook", "--type=merge",
		"-p", `{"spec":{"holderIdentity":"`+holder+`","leaseDurationSeconds":15}}`)
}

// authority is one that the API server takes: its own.
func (b *bench) authority() string {
	return base64.StdEncoding.EncodeToString([]byte(b.kubectl("config", "view", "--raw", "--flatten", "-o", `go-template={{index .clusters 0 "cluster" "certificate-authority-data" | base64decode}}`)))
}

func (b *bench) wantWritten(when string) {
	b.Helper()
	for args, want := range map[string]string{
		"mutatingwebhookconfiguration lifecycle-shim -o jsonpath={.webhooks[0].clientConfig.caBundle}":   b.authority(),
		"mutatingwebhookconfiguration lifecycle-shim -o jsonpath={.webhooks[1].clientConfig.caBundle}":   b.authority(),
		"validatingwebhookconfiguration lifecycle-shim -o jsonpath={.webhooks[0].clientConfig.caBundle}": b.authority(),
		"secret lifecycle-shim-webhook -n lifecycle-shim -o jsonpath={.data.ca\\.key}":                   bundle,
		"lease lifecycle-shim-webhook -n lifecycle-shim -o jsonpath={.spec.holderIdentity}":              holder,
	} {
		if got := b.kubectl(append([]string{"get"}, strings.Fields(args)...)...); got != want {
			b.Errorf("%s: %s is %q, want %q", when, args, got, want)
		}
	}
}

// TestUpgradeKeepsCertificates: applying the manifests again takes nothing from the webhook.
func TestUpgradeKeepsCertificates(t *testing.T) {
	for _, by := range [][2]string{{"helm3", "helm3"}, {"helm4", "helm4"}, {"helm3", "helm4"}} {
		t.Run(strings.Join(by[:], "-"), func(t *testing.T) {
			b, helm := start(t), by[1]
			b.helm(by[0], "install", release, chartDir, "--create-namespace", "--set", "admission.mode=webhook")
			b.writeAsWebhook()
			b.helm(helm, "upgrade", release, chartDir, "--set", "admission.mode=webhook,runtimeClass.name=other,limits.maxTimeout=5m")
			b.wantWritten("after an upgrade")
			if got := b.kubectl("get", "mutatingwebhookconfiguration", "lifecycle-shim", "-o", "jsonpath={.webhooks[0].matchConditions[0].expression}"); !strings.Contains(got, "'other'") {
				t.Errorf("the upgrade has changed nothing: %s", got)
			}
			b.helm(helm, "rollback", release, "1")
			b.wantWritten("after a rollback")
		})
	}
	t.Run("kubectl", func(t *testing.T) {
		b := start(t)
		dir, err := filepath.Abs("../../../deploy/kubernetes/cluster-webhook")
		if err != nil {
			t.Fatal(err)
		}
		b.kubectl("apply", "-k", dir)
		b.writeAsWebhook()
		b.kubectl("apply", "-k", dir)
		b.wantWritten("after a second apply")
		b.kubectl("apply", "-k", dir, "--server-side", "--force-conflicts")
		b.wantWritten("after a server-side apply")
	})
}
