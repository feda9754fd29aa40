package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asMain makes the test's binary behave as lifecyclectl.
const asMain = "LIFECYCLECTL_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// certificate writes a pair for 127.0.0.1, and returns those who trust it.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "tls.crt"), cert, 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

// TestWebhook: as a process, from its first line to SIGTERM.
func TestWebhook(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	command := exec.CommandContext(t.Context(), os.Args[0], "webhook", "--listen", "127.0.0.1:0", "--log-format", "json",
		"--tls-cert-file", filepath.Join(dir, "tls.crt"), "--tls-private-key-file", filepath.Join(dir, "tls.key"))
	command.Env = append(os.Environ(), asMain+"=1")
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	log := func(message string) map[string]any {
		t.Helper()
		for lines.Scan() {
			var line map[string]any
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				t.Fatalf("%q is no JSON: %v", lines.Text(), err)
			}
			if line["msg"] == message {
				return line
			}
		}
		t.Fatalf("it ends without saying %q", message)
		return nil
	}
	address, _ := log("serving")["address"].(string)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	review := `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","name":"web","namespace":"shop","operation":"CREATE",` +
		`"resource":{"version":"v1","resource":"pods"},"userInfo":{"username":"jo"},"object":{"metadata":{"name":"web"},"spec":{"runtimeClassName":"lifecycle",` +
		`"containers":[{"name":"web","lifecycle":{"preStop":{"exec":{"command":["secret"]}}}}]}}}}`
	response, err := client.Post("https://"+address+"/mutate", "application/json", strings.NewReader(review))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Response struct {
			Allowed bool
			Patch   []byte
		}
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, json.Unmarshal(text, &answer)); err != nil || !answer.Response.Allowed || !bytes.Contains(answer.Response.Patch, []byte("secret")) {
		t.Errorf("got %s, %v", text, err)
	}
	line := log("pod admitted")
	if line["namespace"] != "shop" || line["name"] != "web" || line["user"] != "jo" || line["result"] != "converted" || strings.Contains(lines.Text(), "secret") {
		t.Errorf("the log says %s", lines.Text())
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	log("stopping: requests that have begun are answered")
	if lines.Scan() {
		t.Errorf("and then %q", lines.Text())
	}
	if err := command.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
