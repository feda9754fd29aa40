package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Webhook is `lifecyclectl webhook` beside an API server, made of the files in deploy/kubernetes. The address, and the
// paths of the certificates and the binary, which those name, are its own.
type Webhook struct {
	harness.Program
	Address      string // host:port
	Certificates string // the directory
	bin, deploy  string
}

// NewWebhook is one that does not run yet, and has no certificates. deploy is deploy/kubernetes; dir is for its files.
func NewWebhook(binDir, deploy, dir string) (*Webhook, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	w := &Webhook{
		Address: fmt.Sprintf("127.0.0.1:%d", ports[0]), Certificates: filepath.Join(dir, "webhook"), bin: binDir, deploy: deploy,
	}
	unit, err := w.File("lifecycle-webhook.service")
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(unit, "\nExecStart=")
	command, _, found := strings.Cut(rest, "\n")
	if !found {
		return nil, fmt.Errorf("lifecycle-webhook.service runs nothing")
	}
	w.Program = harness.Program{
		Name: "lifecyclectl webhook", Args: strings.Fields(command), Env: []string{"PATH=/nowhere"}, LogFile: filepath.Join(dir, "webhook.log"),
	}
	return w, nil
}

// File is the text of a file in deploy/kubernetes, with what is this webhook's in it.
func (w *Webhook) File(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(w.deploy, name))
	if err != nil {
		return "", err
	}
	own := strings.NewReplacer("127.0.0.1:8443", w.Address, "/etc/lifecycle-shim/webhook", w.Certificates, "/usr/local/bin", w.bin).Replace(string(text))
	if own == string(text) {
		return "", fmt.Errorf("%s names neither the address nor the paths of the webhook", name)
	}
	return own, nil
}

// MakeCertificates, or renew them, with deploy/kubernetes/webhook-certificates. It returns the caBundle that this tells.
func (w *Webhook) MakeCertificates(ctx context.Context, names ...string) (string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(w.deploy, "webhook-certificates"), append([]string{w.Certificates}, names...)...).CombinedOutput()
	bundle, found := strings.CutPrefix(strings.TrimSpace(string(out)), "caBundle: ")
	if err != nil || !found {
		return "", fmt.Errorf("webhook-certificates: %w\n%s", err, out)
	}
	return bundle, nil
}

// Serve starts it, and returns when it answers.
func (w *Webhook) Serve(ctx context.Context) error {
	if err := w.Start(); err != nil {
		return err
	}
	authority, err := w.Authority()
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: authority}}}
	err = harness.Poll(ctx, readyLimit, "the webhook", func() (bool, error) {
		if err := w.Ended(); err != nil {
			return false, err
		}
		response, err := client.Get("https://" + w.Address + "/readyz")
		if err != nil {
			return false, nil //nolint:nilerr // it does not listen yet
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusOK, nil
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(w.Log()))
	}
	return nil
}

// Authority is who has signed its certificate.
func (w *Webhook) Authority() (*x509.CertPool, error) {
	text, err := os.ReadFile(filepath.Join(w.Certificates, "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return pool, nil
}

// Hook makes certificates for it, serves it, and has the API server ask it: which it does a moment later.
func (w *Webhook) Hook(ctx context.Context, api *API) error {
	bundle, err := w.MakeCertificates(ctx)
	if err != nil {
		return err
	}
	if err := w.Serve(ctx); err != nil {
		return err
	}
	configuration, err := w.File("webhook.yaml")
	if err != nil {
		return err
	}
	return api.Apply(ctx, strings.ReplaceAll(configuration, "CA_BUNDLE", bundle))
}
