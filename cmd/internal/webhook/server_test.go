package webhook

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair makes a certificate for 127.0.0.1 that signs itself.
func pair(t *testing.T, name string, notAfter time.Time) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: notAfter.Add(-24 * time.Hour), NotAfter: notAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

// volume is a directory as the kubelet mounts a Secret: files are links through
// ..data, which is a link that is swapped.
type volume struct {
	*testing.T
	dir  string
	turn int
}

func newVolume(t *testing.T) *volume { return &volume{T: t, dir: t.TempDir()} }

// swap puts files in place of those that are there, as the kubelet's
// AtomicWriter does.
func (v *volume) swap(cert, key []byte) {
	v.Helper()
	v.turn++
	data := fmt.Sprintf("..data_%d", v.turn)
	steps := []error{os.Mkdir(filepath.Join(v.dir, data), 0o755)}
	for name, text := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
		steps = append(steps, os.WriteFile(filepath.Join(v.dir, data, name), text, 0o600))
		if v.turn == 1 {
			steps = append(steps, os.Symlink(filepath.Join("..data", name), filepath.Join(v.dir, name)))
		}
	}
	steps = append(steps, os.Symlink(data, filepath.Join(v.dir, "..data_tmp")), os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, "..data")))
	if err := errors.Join(steps...); err != nil {
		v.Fatal(err)
	}
}

func (v *volume) files() (Certificates, error) {
	return Files(filepath.Join(v.dir, "tls.crt"), filepath.Join(v.dir, "tls.key"))
}

func (v *volume) newServer(limits Limits) *Server {
	v.Helper()
	certificates, err := v.files()
	if err != nil {
		v.Fatal(err)
	}
	return New(Config{Certificates: certificates, RuntimeClass: "lifecycle", Limits: limits})
}

// running is a server with the means to stop it.
type running struct {
	*testing.T
	volume  *volume
	server  *Server
	address string
	stop    context.CancelFunc
	ended   chan error // one send
}

func run(t *testing.T, limits Limits) *running {
	t.Helper()
	v := newVolume(t)
	v.swap(pair(t, "first", time.Now().Add(time.Hour)))
	server := v.newServer(limits)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{T: t, volume: v, server: server, address: listener.Addr().String(), stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- server.Serve(ctx, listener) }()
	t.Cleanup(stop)
	return r
}

// client accepts any certificate: tests check the one that the server sent.
func client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true},
		Timeout:   time.Minute,
	}
}

// ask makes one request on a new connection.
func (r *running) ask(request *http.Request) (*http.Response, string) {
	r.Helper()
	c := client()
	defer c.CloseIdleConnections()
	response, err := c.Do(request)
	if err != nil {
		r.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.Fatal(err)
	}
	return response, string(body)
}

func (r *running) request(method, path, body string) *http.Request {
	r.Helper()
	request, err := http.NewRequestWithContext(r.Context(), method, "https://"+r.address+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	return request
}

func (r *running) wantEnd(says string) {
	r.Helper()
	select {
	case err := <-r.ended:
		if (err == nil) != (says == "") || (err != nil && !strings.Contains(err.Error(), says)) {
			r.Errorf("it ended with %v, want %q", err, says)
		}
	case <-time.After(time.Minute):
		r.Fatal("it does not end")
	}
}

// TestCertificates: replaced files are used, in whichever way they were replaced, but only
// when both are complete.
func TestCertificates(t *testing.T) {
	r := run(t, DefaultLimits())
	shown := func() string {
		response, _ := r.ask(r.request("GET", "/healthz", ""))
		if response.ProtoMajor != 2 {
			r.Errorf("the answer came by %s", response.Proto)
		}
		return response.TLS.PeerCertificates[0].Subject.CommonName
	}
	want := func(name string) {
		t.Helper()
		if got := shown(); got != name {
			t.Errorf("the certificate is %q, want %q", got, name)
		}
	}
	later := time.Now().Add(time.Hour)
	want("first")
	r.volume.swap(pair(t, "second", later))
	want("second")
	cert, key := pair(t, "third", later)
	if err := os.WriteFile(filepath.Join(r.volume.dir, "tls.crt"), cert, 0o600); err != nil { // one after the other
		t.Fatal(err)
	}
	want("second")
	if err := os.WriteFile(filepath.Join(r.volume.dir, "tls.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	want("third")
	r.volume.swap([]byte("no certificate"), key)
	want("third")
	if err := os.Remove(filepath.Join(r.volume.dir, "..data")); err != nil {
		t.Fatal(err)
	}
	want("third")
	r.volume.swap(pair(t, "fourth", later))
	want("fourth")
	if response, text := r.ask(r.request("GET", "/readyz", "")); response.StatusCode != http.StatusOK {
		t.Errorf("not ready: %s", text)
	}
	r.volume.swap(pair(t, "expired", time.Now().Add(-time.Minute)))
	response, text := r.ask(r.request("GET", "/readyz", ""))
	if response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "valid from") {
		t.Errorf("ready with an expired certificate: %s", text)
	}
	if response, _ := r.ask(r.request("GET", "/healthz", "")); response.StatusCode != http.StatusOK {
		t.Errorf("an expired certificate is no reason to be restarted: %s", response.Status)
	}
}

func TestNoCertificate(t *testing.T) {
	v := newVolume(t)
	if _, err := v.files(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	cert, _ := pair(t, "a", time.Now().Add(time.Hour))
	_, key := pair(t, "b", time.Now().Add(time.Hour))
	v.swap(cert, key)
	if _, err := v.files(); err == nil || !strings.Contains(err.Error(), "tls.key") {
		t.Errorf("got %v", err)
	}
}

// TestRequestsThatAreNone: other requests get an error that names what is expected.
func TestRequestsThatAreNone(t *testing.T) {
	limits := DefaultLimits()
	limits.Body = 1 << 20
	r := run(t, limits)
	for name, test := range map[string]struct {
		method, path, media, body string
		code                      int
		says                      string
	}{
		"no POST":             {"GET", Path, "application/json", "", http.StatusMethodNotAllowed, ""},
		"another path":        {"POST", "/", "application/json", "{}", http.StatusNotFound, ""},
		"no JSON":             {"POST", Path, "text/plain", "{}", http.StatusUnsupportedMediaType, "application/json"},
		"broken JSON":         {"POST", Path, "application/json", "{", http.StatusBadRequest, "not an AdmissionReview"},
		"an empty body":       {"POST", Path, "application/json", "", http.StatusBadRequest, "not an AdmissionReview"},
		"another object":      {"POST", Path, "application/json", `{"kind":"Pod","apiVersion":"v1"}`, http.StatusBadRequest, "admission.k8s.io/v1 is expected"},
		"an old review":       {"POST", Path, "application/json", `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1"}`, http.StatusBadRequest, "admissionReviewVersions"},
		"no request":          {"POST", Path, "application/json", `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}`, http.StatusBadRequest, "no request"},
		"as large as allowed": {"POST", Path, "application/json", "{" + strings.Repeat(" ", 1<<20-1), http.StatusBadRequest, "not an AdmissionReview"},
		"a byte more":         {"POST", Path, "application/json", "{" + strings.Repeat(" ", 1<<20), http.StatusRequestEntityTooLarge, "larger than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			request := r.request(test.method, test.path, test.body)
			request.Header.Set("Content-Type", test.media)
			if response, text := r.ask(request); response.StatusCode != test.code || !strings.Contains(text, test.says) {
				t.Errorf("got %s: %s", response.Status, text)
			}
		})
	}
	t.Run("no TLS", func(t *testing.T) {
		request := r.request("GET", "/healthz", "")
		request.URL.Scheme = "http"
		if response, text := r.ask(request); response.StatusCode != http.StatusBadRequest || !strings.Contains(text, "HTTP request to an HTTPS server") {
			t.Errorf("got %s: %s", response.Status, text)
		}
	})
	t.Run("old TLS", func(t *testing.T) {
		c, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
		if err == nil {
			c.Close()
			t.Error("TLS 1.1 is spoken")
		}
	})
}

// TestSlowClients lose their connection when their time is up.
func TestSlowClients(t *testing.T) {
	limits := DefaultLimits()
	limits.Header, limits.Request, limits.Idle = 3*time.Second, 4*time.Second, time.Second // a busy machine's handshake fits in
	r := run(t, limits)
	for name, text := range map[string]string{
		"no handshake's end": "",
		"half a header":      "POST " + Path + " HTTP/1.1\r\nHost: x\r\n",
		"half a body":        "POST " + Path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
		"no second request":  "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := r.dial(text != "")
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is kept")
			}
		})
	}
}

// dial connects, with a handshake or without.
func (r *running) dial(secure bool) net.Conn {
	r.Helper()
	conn, err := net.Dial("tcp", r.address)
	if err == nil && secure {
		secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		err = secured.Handshake()
		conn = secured
	}
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { conn.Close() })
	return conn
}

// begun starts a request with a body of the length, and returns when the server
// has begun to read it: then it answers Expect.
func (r *running) begun(length int) (net.Conn, *bufio.Reader) {
	r.Helper()
	conn := r.dial(true)
	reader := bufio.NewReader(conn)
	_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", Path, length)
	if err != nil {
		r.Fatal(err)
	}
	line, err := reader.ReadString('\n')
	if err != nil || !strings.Contains(line, "100 Continue") {
		r.Fatalf("%q, %v", line, err)
	}
	if _, err := reader.ReadString('\n'); err != nil {
		r.Fatal(err)
	}
	return conn, reader
}

// TestStop: a request that has begun is answered, and no other is taken.
func TestStop(t *testing.T) {
	r := run(t, DefaultLimits())
	body := reviewOf(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{}}`)
	conn, reader := r.begun(len(body))
	r.stop()
	for deadline := time.Now().Add(time.Minute); ; { // until the port is closed
		late, err := net.Dial("tcp", r.address)
		if err != nil {
			break
		}
		late.Close()
		if time.Now().After(deadline) {
			t.Fatal("connections are still taken")
		}
	}
	recorder := bytes.Buffer{}
	r.server.ready(&fake{&recorder}, nil)
	if !strings.Contains(recorder.String(), "stopping") {
		t.Errorf("ready while it stops: %s", recorder.String())
	}
	if _, err := conn.Write(body); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(text), `"allowed":true`) {
		t.Errorf("got %s, %v: %s", response.Status, err, text)
	}
	r.wantEnd("")
}

// fake is a response whose client has disconnected.
type fake struct{ io.Writer }

func (*fake) Header() http.Header { return http.Header{} }
func (*fake) WriteHeader(int)     {}

// TestStopIsBounded: a client that does not end its request does not keep the
// server.
func TestStopIsBounded(t *testing.T) {
	limits := DefaultLimits()
	limits.Stop = 50 * time.Millisecond
	r := run(t, limits)
	_, reader := r.begun(10)
	r.stop()
	r.wantEnd("aborted 50ms after the stop")
	if _, err := io.Copy(io.Discard, reader); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is kept")
	}
}

// TestLinger: a server that stops is not ready at once, but still takes requests, each on its
// own connection, until those that send them know.
func TestLinger(t *testing.T) {
	limits := DefaultLimits()
	limits.Linger = 3 * time.Second
	r := run(t, limits)
	review := string(reviewOf(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{}}`))
	if response, _ := r.ask(r.request("POST", Path, review)); response.Close || response.StatusCode != http.StatusOK {
		t.Errorf("before the stop: %s, the connection's end: %t", response.Status, response.Close)
	}
	conn := r.dial(true) // begun before the stop, and used after it
	began := time.Now()
	r.stop()
	for ready := http.StatusOK; ready == http.StatusOK; { // the stop arrives
		recorder := httptest.NewRecorder()
		r.server.Health().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), "GET", "/readyz", nil))
		ready = recorder.Code
		if time.Since(began) > time.Minute {
			t.Fatal("it stays ready")
		}
	}
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", Path, len(review), review); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || !response.Close {
		t.Errorf("after the stop: %s, the connection's end: %t", response.Status, response.Close)
	}
	if response, _ := r.ask(r.request("POST", Path, review)); response.StatusCode != http.StatusOK {
		t.Errorf("a new connection after the stop: %s", response.Status)
	}
	r.wantEnd("")
	if took := time.Since(began); took < limits.Linger {
		t.Errorf("it ended after %s", took)
	}
}

// TestEnd: Serve returns the error that stops the server before its context ends.
func TestEnd(t *testing.T) {
	v := newVolume(t)
	v.swap(pair(t, "a", time.Now().Add(time.Hour)))
	server := v.newServer(DefaultLimits())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := server.Serve(t.Context(), listener); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestDocumentation: docs/use/convert.md names the paths and the limits.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../../../docs/use/convert.md")
	if err != nil {
		t.Fatal(err)
	}
	l := DefaultLimits()
	for _, part := range []string{
		"`POST " + Path + "`", "`POST " + ValidatePath + "`", fmt.Sprintf("more than %d MiB wait", l.Memory>>20), "`/healthz`, `/readyz`", fmt.Sprintf("%d MiB for a request", l.Body>>20),
		fmt.Sprintf("%s for its header, %s for all of it", words(l.Header), words(l.Request)), words(l.Stop) + " for requests that have begun when SIGTERM comes",
	} {
		if !strings.Contains(string(page), part) {
			t.Errorf("the page does not say %q", part)
		}
	}
}

func words(d time.Duration) string { return fmt.Sprintf("%d s", int(d.Seconds())) }
