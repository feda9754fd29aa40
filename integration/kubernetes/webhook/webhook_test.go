// Package webhook tests the webhook beside a real API server, as deploy/kubernetes sets it up.
package webhook

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

const deployDir = "../../../deploy/kubernetes"

// limit bounds every wait. It is long, because it is only reached by a failure.
const limit = 2 * time.Minute

func binDir() string {
	dir, err := filepath.Abs("../../../bin")
	if err != nil {
		panic(err) // no working directory
	}
	return dir
}

// hooked is an API server with the webhook beside it, as deploy/kubernetes sets it up.
type hooked struct {
	*testing.T
	*cluster.API
	webhook *cluster.Webhook
}

func newHooked(t *testing.T) *hooked {
	t.Helper()
	t.Parallel()
	api, err := cluster.StartAPI(t.Context(), binDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	h := &hooked{T: t, API: api, webhook: newWebhook(t)}
	t.Cleanup(func() {
		if err := h.webhook.Stop(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	if _, err := h.Kubectl(t.Context(), "apply", "-f", filepath.Join(deployDir, "runtimeclass.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := h.webhook.Hook(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	h.poll("the API server to ask the webhook", func() bool {
		return strings.Contains(h.create(page(t, "lifecycle"), "--dry-run=server"), ".lifecycle-shim.io/lifecycle")
	})
	return h
}

func newWebhook(t *testing.T) *cluster.Webhook {
	t.Helper()
	w, err := cluster.NewWebhook(binDir(), deployDir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (h *hooked) poll(what string, done func() bool) {
	h.Helper()
	if err := harness.Poll(h.Context(), limit, what, func() (bool, error) { return done(), nil }); err != nil {
		h.Fatalf("%v\n%s", err, h.webhook.Log())
	}
}

// page is the documentation's pod, with a runtime class if there is one: no other change.
func page(t *testing.T, runtimeClass string) string {
	t.Helper()
	text, err := os.ReadFile("../testdata/lifecycle-events.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if runtimeClass == "" {
		return string(text)
	}
	return strings.Replace(string(text), "spec:\n", "spec:\n  runtimeClassName: "+runtimeClass+"\n", 1)
}

// create returns the pod as the API server has it, in JSON, or the error's words.
func (h *hooked) create(manifest string, args ...string) string {
	h.Helper()
	path := filepath.Join(h.TempDir(), "pod.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		h.Fatal(err)
	}
	out, err := h.Kubectl(h.Context(), append([]string{"create", "-o", "json", "-f", path}, args...)...)
	if err != nil {
		return err.Error()
	}
	return out
}

// pod is what matters here of one.
type pod struct {
	Metadata struct{ Annotations map[string]string }
	Spec     struct {
		RuntimeClassName string
		Containers       []struct{ Lifecycle json.RawMessage }
	}
}

func decodePod(t *testing.T, text string) pod {
	t.Helper()
	var p pod
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return p
}

// The page's pod, with the one line that names the runtime class, is changed as `lifecyclectl convert` changes it; others are not.
func TestWebhook(t *testing.T) {
	h := newHooked(t)
	got := decodePod(t, h.create(page(t, "lifecycle")))
	convert := exec.CommandContext(t.Context(), filepath.Join(binDir(), "lifecyclectl"), "convert", "-f", "../testdata/lifecycle-events.yaml", "-o", "json")
	convert.Stderr = os.Stderr
	converted, err := convert.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := decodePod(t, string(converted))
	if len(want.Metadata.Annotations) == 0 {
		t.Fatalf("convert makes no annotations: %s", converted)
	}
	for key, value := range want.Metadata.Annotations {
		if got.Metadata.Annotations[key] != value {
			t.Errorf("annotation %s is %q, convert has %q", key, got.Metadata.Annotations[key], value)
		}
	}
	if got.Spec.RuntimeClassName != "lifecycle" || len(got.Spec.Containers) != 1 || got.Spec.Containers[0].Lifecycle != nil {
		t.Errorf("the pod is %+v", got)
	}

	for name, args := range map[string][]string{"default": nil, "kube-system": {"-n", "kube-system"}} {
		class := ""
		if name == "kube-system" {
			class = "lifecycle"
		}
		other := decodePod(t, h.create(page(t, class), append([]string{"--dry-run=server"}, args...)...))
		if len(other.Metadata.Annotations) > 0 || other.Spec.Containers[0].Lifecycle == nil {
			t.Errorf("a pod with the class %q in %s is changed: %+v", class, name, other)
		}
	}
}

// Without the webhook no pod with handlers is let in, as the kubelet would run them; all others are.
func TestWebhookIsDown(t *testing.T) {
	h := newHooked(t)
	if err := h.webhook.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := h.create(page(t, "lifecycle")); !strings.Contains(got, `failed calling webhook "pods.lifecycle-shim.io"`) {
		t.Errorf("a pod is let in: %s", got)
	}
	decodePod(t, h.create(page(t, "")))
	if err := h.webhook.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	decodePod(t, h.create(page(t, "lifecycle"), "--dry-run=server"))
}

// Certificates are renewed under the webhook's hands, and nothing has to be applied again.
func TestWebhookCertificatesAreRenewed(t *testing.T) {
	h := newHooked(t)
	authority, err := h.webhook.Authority()
	if err != nil {
		t.Fatal(err)
	}
	served := func() string {
		conn, err := tls.Dial("tcp", h.webhook.Address, &tls.Config{RootCAs: authority})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := served()
	if _, err := h.webhook.MakeCertificates(t.Context()); err != nil {
		t.Fatal(err)
	}
	if served() == first {
		t.Error("the webhook serves the former certificate")
	}
	if got := decodePod(t, h.create(page(t, "lifecycle"))); len(got.Metadata.Annotations) == 0 {
		t.Errorf("the pod is %+v", got)
	}
}

// What webhook-certificates makes is what it says.
func TestWebhookCertificates(t *testing.T) {
	w := newWebhook(t)
	dir := w.Certificates
	made := map[string]bool{}
	for range 2 {
		bundle, err := w.MakeCertificates(t.Context(), "lifecycle.kube-system.svc", "10.0.0.1", "fd00::1")
		if err != nil {
			t.Fatal(err)
		}
		made[bundle] = true
	}
	if len(made) != 1 {
		t.Error("a second run makes another authority")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	leaf := pair.Leaf
	pool, err := w.Authority()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lifecycle.kube-system.svc", "10.0.0.1", "fd00::1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool}); err != nil {
			t.Error(err)
		}
	}
	if left := time.Until(leaf.NotAfter); left < 364*24*time.Hour || left > 366*24*time.Hour || leaf.IsCA {
		t.Errorf("it is good until %v; an authority: %t", leaf.NotAfter, leaf.IsCA)
	}
	if _, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok {
		t.Errorf("its key is a %T", leaf.PublicKey)
	}
	files := map[string]os.FileMode{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = info.Mode().Perm()
	}
	if got := fmt.Sprint(files); got != fmt.Sprint(map[string]os.FileMode{"ca.crt": 0o644, "ca.key": 0o600, "tls.crt": 0o644, "tls.key": 0o600}) {
		t.Errorf("files %s", got)
	}

	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(filepath.Join(dir, "tls.crt"))
	_, err = w.MakeCertificates(t.Context())
	after, _ := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err == nil || !strings.Contains(err.Error(), "ca.key") || !bytes.Equal(before, after) {
		t.Errorf("without the authority's key: %v", err)
	}
}

// systemd takes the unit as it is.
func TestWebhookUnit(t *testing.T) {
	w := newWebhook(t)
	text, err := w.File("lifecycle-webhook.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "lifecycle-webhook.service")
	if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
	if !slices.Contains(w.Args, "webhook") {
		t.Errorf("it runs %q", w.Args)
	}
}
