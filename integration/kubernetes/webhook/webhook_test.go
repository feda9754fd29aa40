// Package webhook tests the webhook beside a real API server, as deploy/kubernetes sets it up.
package webhook

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

// deployFile is a file of deploy/, by its path there.
func deployFile(name string) string { return filepath.Join("../../../deploy", name) }

// certificates runs deploy/kubernetes/webhook-certificates, and returns the caBundle that it prints.
func certificates(t *testing.T, dir string, names ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), deployFile("kubernetes/webhook-certificates"), append([]string{dir}, names...)...).CombinedOutput()
	bundle, found := strings.CutPrefix(strings.TrimSpace(string(out)), "caBundle: ")
	if err != nil || !found {
		t.Fatalf("webhook-certificates: %v\n%s", err, out)
	}
	return bundle
}

// limit bounds every wait. It is long, because it is only reached by a failure.
const limit = 2 * time.Minute

func binDir() string {
	dir, err := filepath.Abs("../../../bin")
	if err != nil {
		panic(err) // no working directory
	}
	return dir
}

// documented are the commands of docs/use/kubernetes.md on the webhook, in their order.
func documented(t *testing.T) []string {
	t.Helper()
	var commands []string
	for _, block := range docpage.Blocks(docpage.Section(docpage.Read(t, "docs/use/kubernetes.md"), "### The webhook beside the API server"), "sh") {
		commands = append(commands, strings.Split(strings.TrimSpace(block), "\n")...)
	}
	return commands
}

// The page's commands set the webhook up; what they do to this test's files instead of the machine's is all that is changed.
func TestDocumentation(t *testing.T) {
	h := &hooked{T: t, address: freeAddress(t), certs: filepath.Join(t.TempDir(), "webhook")}
	api, err := cluster.StartAPI(t.Context(), binDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	h.API = api
	if got := h.create(page(t, "lifecycle")); !strings.Contains(got, `RuntimeClass "lifecycle" not found`) {
		t.Errorf("without the RuntimeClass: %s", got)
	}
	if _, err := h.Kubectl(t.Context(), "apply", "-f", deployFile("kubernetes/runtimeclass.yaml")); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() // as a clone, whose files name this test's places
	if err := os.MkdirAll(filepath.Join(dir, "deploy/kubernetes"), 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs(deployFile("kubernetes/webhook-certificates"))
	if err == nil {
		err = os.Symlink(script, filepath.Join(dir, "deploy/kubernetes/webhook-certificates"))
	}
	for _, name := range []string{"kubernetes/webhook.yaml", "kubernetes/lifecycle-webhook.service"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "deploy", name), []byte(h.place(name)), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range documented(t) {
		if line == "systemctl enable --now lifecycle-webhook" {
			h.run(h.unitCommand("kubernetes/lifecycle-webhook.service"))
			continue
		}
		command := exec.CommandContext(t.Context(), "bash", "-c", strings.NewReplacer("/etc/lifecycle-shim/webhook", h.certs, "/etc/systemd/system", dir).Replace(line))
		command.Dir = dir
		command.Env = []string{"KUBECONFIG=" + h.Kubeconfig, "HOME=" + dir, "PATH=" + filepath.Join(binDir(), "kubernetes") + ":/usr/bin:/bin"}
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	h.wantAsked()
}

// hooked is an API server with the webhook beside it, as deploy/kubernetes sets it up.
type hooked struct {
	*testing.T
	*cluster.API
	webhook *harness.Program
	address string
	certs   string // the directory
}

// freeAddress on the loopback, in the place of the one that the files name.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// place puts what is this test's into a file of deploy/kubernetes.
func (h *hooked) place(name string, more ...string) string {
	h.Helper()
	text, err := os.ReadFile(deployFile(name))
	if err != nil {
		h.Fatal(err)
	}
	placed := strings.NewReplacer(append(more,
		"127.0.0.1:8443", h.address, "/etc/lifecycle-shim/webhook", h.certs, "/usr/local/bin", binDir())...).Replace(string(text))
	if placed == string(text) {
		h.Fatalf("%s names nothing that is this test's", name)
	}
	return placed
}

// unitCommand is what the unit of that name runs.
func (h *hooked) unitCommand(name string) []string {
	h.Helper()
	_, rest, _ := strings.Cut(h.place(name), "\nExecStart=")
	line, _, found := strings.Cut(rest, "\n")
	if !found {
		h.Fatalf("%s runs nothing", name)
	}
	return strings.Fields(line)
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
	return hook(t, api)
}

// hook sets the webhook up beside this API server.
func hook(t *testing.T, api *cluster.API) *hooked {
	t.Helper()
	h := &hooked{T: t, API: api, address: freeAddress(t), certs: filepath.Join(t.TempDir(), "webhook")}
	bundle := certificates(t, h.certs)
	h.run(h.unitCommand("kubernetes/lifecycle-webhook.service"))
	if _, err := h.Kubectl(t.Context(), "apply", "-f", deployFile("kubernetes/runtimeclass.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := h.Apply(t.Context(), h.place("kubernetes/webhook.yaml", "CA_BUNDLE", bundle)); err != nil {
		t.Fatal(err)
	}
	h.wantAsked()
	return h
}

// wantAsked waits until the API server knows of the webhook.
func (h *hooked) wantAsked() {
	h.Helper()
	h.poll("the API server to ask the webhook", func() bool {
		return strings.Contains(h.create(page(h.T, "lifecycle"), "--dry-run=server"), ".lifecycle-shim.io/lifecycle")
	})
}

// run the webhook, until the test's end.
func (h *hooked) run(command []string) {
	h.Helper()
	h.webhook = &harness.Program{Name: "lifecyclectl webhook", Args: command, Env: []string{"PATH=/nowhere"}, LogFile: filepath.Join(h.TempDir(), "log")}
	h.start()
	h.Cleanup(func() {
		if err := h.webhook.Stop(syscall.SIGKILL); err != nil {
			h.Error(err)
		}
	})
}

// start the webhook, and wait until it answers.
func (h *hooked) start() {
	h.Helper()
	if err := h.webhook.Start(); err != nil {
		h.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: h.authority()}}}
	h.poll("the webhook", func() bool {
		response, err := client.Get("https://" + h.address + "/readyz")
		if err != nil {
			return false
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusOK
	})
}

func (h *hooked) authority() *x509.CertPool {
	h.Helper()
	text, err := os.ReadFile(filepath.Join(h.certs, "ca.crt"))
	if err != nil {
		h.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return pool
}

func (h *hooked) poll(what string, done func() bool) {
	h.Helper()
	if err := harness.Poll(h.Context(), limit, what, func() (bool, error) { return done(), h.webhook.Ended() }); err != nil {
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
	convert := exec.CommandContext(t.Context(), filepath.Join(binDir(), "lifecyclectl"), "convert", "-f", "../testdata/lifecycle-events.yaml")
	convert.Stderr = os.Stderr
	converted, err := convert.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want pod
	if err := yaml.Unmarshal(converted, &want); err != nil {
		t.Fatal(err)
	}
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

	for _, namespace := range []string{"kube-public", "kube-system"} {
		other := decodePod(t, h.create(page(t, ""), "--dry-run=server", "-n", namespace))
		if len(other.Metadata.Annotations) > 0 || other.Spec.Containers[0].Lifecycle == nil {
			t.Errorf("a pod without the class in %s is changed: %+v", namespace, other)
		}
	}
	// The mutating webhook is not asked there, and the kubelet must not run the handlers silently (docs/spec.md#convert).
	if got := h.create(page(t, "lifecycle"), "--dry-run=server", "-n", "kube-system"); !strings.Contains(got, `webhook "check.lifecycle-shim.io" denied the request`) || !strings.Contains(got, "lifecyclectl convert") {
		t.Errorf("a pod of the class in kube-system: %s", got)
	}
}

// Certificates are renewed under the webhook's hands, and nothing has to be applied again.
func TestWebhookCertificatesAreRenewed(t *testing.T) {
	h := newHooked(t)
	served := func() string {
		conn, err := tls.Dial("tcp", h.address, &tls.Config{RootCAs: h.authority()})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := served()
	certificates(t, h.certs)
	if served() == first {
		t.Error("the webhook serves the former certificate")
	}
	if got := decodePod(t, h.create(page(t, "lifecycle"))); len(got.Metadata.Annotations) == 0 {
		t.Errorf("the pod is %+v", got)
	}
}

// What webhook-certificates makes is what it says.
func TestWebhookCertificates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	first := certificates(t, dir, "lifecycle.kube-system.svc", "10.0.0.1", "fd00::1")
	if second := certificates(t, dir, "lifecycle.kube-system.svc", "10.0.0.1", "fd00::1"); second != first {
		t.Error("a second run makes another authority")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	leaf := pair.Leaf
	authority, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
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
	out, err := exec.CommandContext(t.Context(), deployFile("kubernetes/webhook-certificates"), dir).CombinedOutput()
	after, _ := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err == nil || !strings.Contains(string(out), "ca.key") || !bytes.Equal(before, after) {
		t.Errorf("without the authority's key: %v, %s", err, out)
	}
}

// systemd takes the unit as it is.
func TestWebhookUnit(t *testing.T) {
	h := &hooked{T: t, address: "127.0.0.1:1", certs: "/nowhere"}
	unit := filepath.Join(t.TempDir(), "lifecycle-webhook.service")
	if err := os.WriteFile(unit, []byte(h.place("kubernetes/lifecycle-webhook.service")), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
	if command := h.unitCommand("kubernetes/lifecycle-webhook.service"); !slices.Contains(command, "webhook") {
		t.Errorf("it runs %q", command)
	}
}
