package webhook

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/platform"
)

// platformPod does not name the class; the plugin of that name will set it.
func platformPod(plugin string, handlers bool) string {
	lifecycle := ""
	if handlers {
		lifecycle = `,"lifecycle":{"preStop":{"sleep":{"seconds":1}}}`
	}
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"platform","labels":{%q:%q}},"spec":{"containers":[{"name":"app","image":"x"%s}]}}`,
		platform.Label, plugin, lifecycle)
}

// plugin applies one, until the test's end, and waits until it sets the class.
func (h *hooked) plugin(name, manifest string) {
	h.Helper()
	if err := h.Apply(h.Context(), manifest); err != nil {
		h.Fatal(err)
	}
	file := filepath.Join(h.TempDir(), name)
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		if _, err := h.Kubectl(context.Background(), "delete", "--wait=false", "-f", file); err != nil {
			h.Error(err)
		}
	})
	h.poll("plugin "+name, func() bool {
		got := h.create(platformPod(name, false), "--dry-run=server")
		return strings.Contains(got, `"runtimeClassName": "lifecycle"`) || strings.Contains(got, "check.lifecycle-shim.io")
	})
}

// FAULTS B1, the webhook's half of the table: the class is set by anyone, before the webhook
// or after it, the handlers are moved.
func TestWhoeverSetsTheClass(t *testing.T) { newHooked(t).wantMovedInAnyOrder() }

func (h *hooked) wantMovedInAnyOrder() {
	h.Helper()
	other := platform.StartWebhook()
	h.Cleanup(other.Close)
	for plugin, manifest := range map[string]func(string) string{
		"a-webhook": func(name string) string { return other.Manifest(name, platform.SetClass) }, // before lifecycle-shim
		"z-webhook": func(name string) string { return other.Manifest(name, platform.SetClass) }, // after it
		"a-policy":  platform.Policy,
		"z-policy":  platform.Policy,
	} {
		h.plugin(plugin, manifest(plugin))
		for range 5 {
			h.wantMoved(plugin)
		}
	}
}

// wantMoved: a pod whose class that plugin sets is admitted, and its handlers are moved.
func (h *hooked) wantMoved(plugin string) {
	h.Helper()
	got := decodePod(h.T, h.create(platformPod(plugin, true), "--dry-run=server"))
	if got.Spec.RuntimeClassName != "lifecycle" || got.Spec.Containers[0].Lifecycle != nil || got.Metadata.Annotations["app.lifecycle-shim.io/lifecycle"] == "" {
		h.Errorf("%s: the pod is %+v", plugin, got)
	}
}

// What slips past all the same, because a plugin adds both the class and the handlers
// after the webhook was passed over, is refused in words that say so.
func TestWhatSlipsIsRefused(t *testing.T) { newHooked(t).wantSlipRefused() }

func (h *hooked) wantSlipRefused() {
	h.Helper()
	other := platform.StartWebhook()
	h.Cleanup(other.Close)
	h.plugin("z-late", other.Manifest("z-late", platform.AddHandlers))
	got := h.create(platformPod("z-late", false), "--dry-run=server")
	for _, part := range []string{`admission webhook "check.lifecycle-shim.io" denied the request`, "spec.containers.0.lifecycle is still in spec", "after another admission plugin"} {
		if !strings.Contains(got, part) {
			h.Errorf("it does not say %q: %s", part, got)
		}
	}
}

// Without the webhook no pod of the class with handlers is let in, as the kubelet would
// run them; all others are, those of other classes with handlers too.
func TestWebhookIsDown(t *testing.T) {
	h := newHooked(t)
	if err := h.webhook.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := h.create(page(t, "lifecycle")); !strings.Contains(got, `failed calling webhook "check.lifecycle-shim.io"`) {
		t.Errorf("a pod is let in: %s", got)
	}
	if got := decodePod(t, h.create(page(t, ""), "--dry-run=server")); got.Spec.Containers[0].Lifecycle == nil {
		t.Errorf("a pod of another class is %+v", got)
	}
	without := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"runtimeClassName":"lifecycle","containers":[{"name":"app","image":"x"}]}}`
	decodePod(t, h.create(without, "--dry-run=server"))
	h.start()
	decodePod(t, h.create(page(t, "lifecycle"), "--dry-run=server"))
}

// The same doors in what the chart installs: two replicas, with a configuration for each.
// They hold if either replica is dead; if both are, the class with handlers is refused.
func TestDoorsInTheCluster(t *testing.T) {
	r := newReplicated(t, nil, "--lease-duration=3s")
	r.wantReady()
	h := &hooked{T: t, API: r.API, webhook: &harness.Program{}}
	h.wantMovedInAnyOrder()
	h.wantSlipRefused()
	for _, replica := range r.replicas {
		if err := replica.Stop(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for _, plugin := range []string{"a-webhook", "z-webhook", "a-policy", "z-policy"} {
			h.wantMoved(plugin)
		}
		decodePod(t, h.create(page(t, "lifecycle"), "--dry-run=server"))
		if err := replica.Start(); err != nil {
			t.Fatal(err)
		}
		if err := r.waitReady(replica); err != nil {
			t.Fatal(err)
		}
	}
	for _, replica := range r.replicas {
		if err := replica.Stop(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.create(page(t, "lifecycle"), "--dry-run=server"); !strings.Contains(got, `failed calling webhook "check.lifecycle-shim.io"`) {
		t.Errorf("without a replica a pod is let in: %s", got)
	}
	for name, manifest := range map[string]string{"of another class": page(t, ""), "without handlers": strings.Replace(platformPod("", false), `"spec":{`, `"spec":{"runtimeClassName":"lifecycle",`, 1)} {
		if got := h.create(manifest, "--dry-run=server"); !strings.HasPrefix(got, "{") {
			t.Errorf("without a replica a pod %s is refused: %s", name, got)
		}
	}
}
