package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

func TestFlags(t *testing.T) {
	managed := []string{"--namespace=a", "--service-names=b"}
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, "tls-cert-file namespace"},
		{[]string{"--tls-cert-file=a"}, "tls-private-key-file"},
		{[]string{"--tls-cert-file=a", "--tls-private-key-file=b", "--namespace=c"}, "tls-cert-file namespace"},
		{[]string{"--tls-cert-file=/nowhere", "--tls-private-key-file=/nowhere"}, "cannot read the certificate"},
		{[]string{"--namespace=a"}, "the server has 0 names"},
		{append(managed, "--runtime-class="), "--runtime-class is empty"},
		{append(managed, "--log-format=xml"), `--log-format "xml"`},
		{append(managed, "--log-level=loud"), "--log-level"},
		{append(managed, "--secret=a/b"), `--secret "a/b" is not the name`},
		{append(managed, "--lease="), `--lease "" is not the name`},
		{append(managed, "--lease-duration=1ms"), "--lease-duration 1ms is too short"},
		{append(managed, "--authority-lifetime=1h"), "must live 4 times as long"},
		{append(managed, "--kubeconfig=/nowhere"), "cannot find the API server"},
		{append(managed, "--max-timeout=long"), "max-timeout"},
		{append(managed, "more"), "unknown command"},
	} {
		command := newCommand()
		command.SetArgs(test.args)
		if err := command.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%q: want %q, got %v", test.args, test.says, err)
		}
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	command := newCommand()
	command.SetOut(&out)
	command.SetArgs([]string{"--version"})
	if err := command.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), version.Version) {
		t.Errorf("it says %q, %v", out.String(), err)
	}
}

// Names without a dot are of Services in the namespace.
func TestServiceNames(t *testing.T) {
	s := &serving{}
	s.kube.Namespace, s.kube.Secret, s.kube.Configuration, s.lease.Name, s.lease.Duration = "n", "s", "c", "l", time.Minute
	s.settings.Names, s.settings.CertificateLifetime, s.settings.AuthorityLifetime = []string{"a", "a.example.org", "::1"}, time.Hour, 4*time.Hour
	if err := s.checkManaged(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.settings.Names, " "); got != "a.n.svc a.example.org ::1" {
		t.Errorf("the names are %s", got)
	}
}

// With a certificate of another program it calls no API server.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	health := freeAddress(t)
	command := newCommand()
	command.SetArgs([]string{
		"--tls-cert-file=" + filepath.Join(dir, "tls.crt"), "--tls-private-key-file=" + filepath.Join(dir, "tls.key"),
		"--listen=127.0.0.1:0", "--health-listen=" + health, "--shutdown-delay=0",
	})
	ended := make(chan error, 1)
	go func() { ended <- command.ExecuteContext(ctx) }()
	for deadline := time.Now().Add(time.Minute); ; {
		response, err := http.Get("http://" + health + "/readyz")
		if err == nil {
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Errorf("not ready: %s", response.Status)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func writePair(t *testing.T, dir string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: key}} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}
