package hookexec

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

const inside = "10.1.2.3" // of the container in these tests

// web is a server in a container's namespace. It records the requests.
type web struct {
	netns NetNS
	port  int32

	mu       sync.Mutex
	requests []*http.Request
}

func newWeb(t *testing.T, secure bool, answer http.HandlerFunc) *web {
	t.Helper()
	w := &web{netns: newNetNS(t, inside+"/24")}
	w.port = w.serve(t, secure, answer)
	return w
}

// serve adds another port of the container, and returns its number.
func (w *web) serve(t *testing.T, secure bool, answer http.HandlerFunc) int32 {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		w.mu.Lock()
		w.requests = append(w.requests, request)
		w.mu.Unlock()
		if answer != nil {
			answer(response, request)
		}
	}))
	_ = server.Listener.Close() // it is outside of the namespace
	server.Listener = w.netns.listen(t, inside+":0")
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return portOf(server.Listener)
}

func (w *web) get(t *testing.T, get *lifecyclev1.HTTPGetAction) Result {
	t.Helper()
	if get.Port == 0 {
		get.Port = w.port
	}
	ctx := &holdingContext{Context: t.Context()}
	result := (&HTTPGet{NetNS: w.netns, Get: get, UserAgent: "lifecycle-shim/1.2.3"}).Attempt(ctx)
	if held := ctx.held.Load(); held != 0 {
		t.Errorf("%d contexts are derived from the attempt's and not released", held)
	}
	return result
}

// only returns the only request.
func (w *web) only(t *testing.T) *http.Request {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.requests) != 1 {
		t.Fatalf("got %d requests", len(w.requests))
	}
	return w.requests[0]
}

func wantSuccess(t *testing.T, result Result) {
	t.Helper()
	if result.Outcome != lifecycle.Succeeded || result.Err != nil || result.ExitCode != -1 || result.Output != "" {
		t.Errorf("got %+v", result)
	}
}

func wantFailure(t *testing.T, result Result, says string) {
	t.Helper()
	if result.Outcome != lifecycle.Failed || result.Err == nil || result.ExitCode != -1 {
		t.Fatalf("got %+v", result)
	}
	if !strings.Contains(result.Err.Error(), says) {
		t.Errorf("%q does not contain %q", result.Err, says)
	}
}

// TestAnyResponseIsASuccess: KUBERNETES.md A17.
func TestAnyResponseIsASuccess(t *testing.T) {
	for _, code := range []int{200, 204, 301, 304, 400, 404, 500, 503, 999} {
		w := newWeb(t, false, func(response http.ResponseWriter, _ *http.Request) { response.WriteHeader(code) })
		t.Run(fmt.Sprint(code), func(t *testing.T) { wantSuccess(t, w.get(t, &lifecyclev1.HTTPGetAction{})) })
	}
}

// TestRequest: KUBERNETES.md A9, A11 and A13.
func TestRequest(t *testing.T) {
	fields := func(pairs ...string) []*lifecyclev1.HTTPHeader {
		var headers []*lifecyclev1.HTTPHeader
		for pair := range slices.Chunk(pairs, 2) {
			headers = append(headers, &lifecyclev1.HTTPHeader{Name: pair[0], Value: pair[1]})
		}
		return headers
	}
	for name, test := range map[string]struct {
		get    *lifecyclev1.HTTPGetAction
		uri    string
		host   string // without the port
		header http.Header
	}{
		"the defaults": {&lifecyclev1.HTTPGetAction{}, "/", inside, http.Header{
			"User-Agent": {"lifecycle-shim/1.2.3"}, "Accept": {"*/*"}, "Connection": {"close"},
		}},
		"a path":                     {get: &lifecyclev1.HTTPGetAction{Path: "/a/b"}, uri: "/a/b"},
		"a path without a slash":     {get: &lifecyclev1.HTTPGetAction{Path: "a"}, uri: "/a"},
		"a query":                    {get: &lifecyclev1.HTTPGetAction{Path: "/a?b=c&d"}, uri: "/a?b=c&d"},
		"a fragment is not sent":     {get: &lifecyclev1.HTTPGetAction{Path: "/a#b"}, uri: "/a"},
		"a path that is not a URL":   {get: &lifecyclev1.HTTPGetAction{Path: "/50%"}, uri: "/50%25"},
		"not a URL, without a slash": {get: &lifecyclev1.HTTPGetAction{Path: "1:2?3"}, uri: "/1:2%3F3"},
		"an escaped path":            {get: &lifecyclev1.HTTPGetAction{Path: "/a%2Fb%20c"}, uri: "/a%2Fb%20c"},
		"another host in the path":   {get: &lifecyclev1.HTTPGetAction{Path: "http://192.0.2.1/a"}, uri: "/a", host: inside},
		"a header": {get: &lifecyclev1.HTTPGetAction{HttpHeaders: fields("X-A", "b")}, uri: "/", header: http.Header{
			"X-A": {"b"}, "User-Agent": {"lifecycle-shim/1.2.3"}, "Accept": {"*/*"}, "Connection": {"close"},
		}},
		"a header twice": {get: &lifecyclev1.HTTPGetAction{HttpHeaders: fields("X-A", "b", "x-a", "c")}, uri: "/", header: http.Header{
			"X-A": {"b", "c"}, "User-Agent": {"lifecycle-shim/1.2.3"}, "Accept": {"*/*"}, "Connection": {"close"},
		}},
		"a host": {get: &lifecyclev1.HTTPGetAction{HttpHeaders: fields("Host", "example.com")}, uri: "/", host: "example.com"},
		"its own User-Agent and Accept": {
			get: &lifecyclev1.HTTPGetAction{HttpHeaders: fields("user-agent", "me", "accept", "text/plain")}, uri: "/",
			header: http.Header{"User-Agent": {"me"}, "Accept": {"text/plain"}, "Connection": {"close"}},
		},
		"an empty Accept": {
			get: &lifecyclev1.HTTPGetAction{HttpHeaders: fields("Accept", "")}, uri: "/",
			header: http.Header{"User-Agent": {"lifecycle-shim/1.2.3"}, "Connection": {"close"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			// The shim's environment must not redirect a handler's request.
			t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
			t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
			w := newWeb(t, false, nil)
			wantSuccess(t, w.get(t, test.get))
			request := w.only(t)
			if request.Method != http.MethodGet || request.RequestURI != test.uri && test.uri != "" {
				t.Errorf("requested %s %s, want %s", request.Method, request.RequestURI, test.uri)
			}
			host, _, err := net.SplitHostPort(request.Host)
			if err != nil {
				host = request.Host
			}
			if host != test.host && test.host != "" {
				t.Errorf("host %q, want %q", host, test.host)
			}
			if test.header != nil && fmt.Sprint(request.Header) != fmt.Sprint(test.header) {
				t.Errorf("header %v, want %v", request.Header, test.header)
			}
		})
	}
}

// TestSchemes: KUBERNETES.md A12, A15 and A18.
func TestSchemes(t *testing.T) {
	secret := []*lifecyclev1.HTTPHeader{{Name: "Authorization", Value: "secret"}, {Name: "X-A", Value: "b"}}
	for name, test := range map[string]struct {
		scheme string
		secure bool // the server uses TLS
		sent   bool // the secret was sent
	}{
		"HTTP":                    {"HTTP", false, true},
		"HTTPS, self-signed":      {"HTTPS", true, true},
		"HTTPS to an HTTP server": {"HTTPS", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWeb(t, test.secure, nil)
			wantSuccess(t, w.get(t, &lifecyclev1.HTTPGetAction{Scheme: test.scheme, Path: "/a?b", HttpHeaders: secret}))
			request := w.only(t)
			if (request.TLS != nil) != test.secure || request.RequestURI != "/a?b" || request.Header.Get("X-A") != "b" {
				t.Errorf("requested %+v", request)
			}
			if sent := request.Header.Get("Authorization") == "secret"; sent != test.sent {
				t.Errorf("Authorization was sent: %t, want %t", sent, test.sent)
			}
		})
	}
	t.Run("a password in the path", func(t *testing.T) {
		w := newWeb(t, false, nil)
		wantSuccess(t, w.get(t, &lifecyclev1.HTTPGetAction{Scheme: "HTTPS", Path: "//me:secret@x/a"}))
		if request := w.only(t); request.Header.Get("Authorization") != "" || request.RequestURI != "/a" {
			t.Errorf("requested %+v", request)
		}
	})
	t.Run("HTTP to a server that wants TLS is answered", func(t *testing.T) {
		w := newWeb(t, true, nil)
		wantSuccess(t, w.get(t, &lifecyclev1.HTTPGetAction{Scheme: "HTTP"})) // net/http's server responds with 400
	})
}

// TestRedirects: KUBERNETES.md A16.
func TestRedirects(t *testing.T) {
	to := func(target func() string) http.HandlerFunc {
		return func(response http.ResponseWriter, request *http.Request) {
			if request.URL.Path != "/last" {
				http.Redirect(response, request, target(), http.StatusFound)
			}
		}
	}
	t.Run("to the same host", func(t *testing.T) {
		w := newWeb(t, false, to(func() string { return "/last" }))
		wantSuccess(t, w.get(t, &lifecyclev1.HTTPGetAction{}))
		if len(w.requests) != 2 || w.requests[1].URL.Path != "/last" {
			t.Errorf("requests %v", w.requests)
		}
	})
	t.Run("to another port of it", func(t *testing.T) {
		var port int32
		w := newWeb(t, false, to(func() string { return fmt.Sprintf("http://%s:%d/last", inside, port) }))
		port = w.serve(t, false, nil)
		wantSuccess(t, w.get(t, &lifecyclev1.HTTPGetAction{}))
		if len(w.requests) != 2 || !strings.HasSuffix(w.requests[1].Host, fmt.Sprint(port)) {
			t.Errorf("requests %v", w.requests)
		}
	})
	t.Run("to another host is a response", func(t *testing.T) {
		w := newWeb(t, false, to(func() string { return "http://127.0.0.1:1/" }))
		wantSuccess(t, w.get(t, &lifecyclev1.HTTPGetAction{}))
		w.only(t)
	})
	t.Run("for ever", func(t *testing.T) {
		w := newWeb(t, false, to(func() string { return "/again" }))
		wantFailure(t, w.get(t, &lifecyclev1.HTTPGetAction{}), "stopped after 10 redirects")
		if len(w.requests) != 10 {
			t.Errorf("%d requests", len(w.requests))
		}
	})
	t.Run("to a scheme other than HTTP", func(t *testing.T) {
		w := newWeb(t, false, to(func() string { return "file://" + inside + "/etc/passwd" }))
		wantFailure(t, w.get(t, &lifecyclev1.HTTPGetAction{}), "unsupported protocol scheme")
	})
}

// TestRequestsThatCannotBeMade: the attempt fails with the reason.
func TestRequestsThatCannotBeMade(t *testing.T) {
	wantFailure(t, (&HTTPGet{NetNS: NetNS{Pidfd: -1}, Get: &lifecyclev1.HTTPGetAction{Port: 80}}).Attempt(t.Context()), "enter the container's network namespace")
	if request, err := (&HTTPGet{NetNS: NetNS{Pidfd: -1}, Get: &lifecyclev1.HTTPGetAction{Port: 80}}).request(t.Context()); err == nil {
		t.Errorf("without a namespace: %+v", request)
	}
	wantFailure(t, (&HTTPGet{NetNS: newNetNS(t), Get: &lifecyclev1.HTTPGetAction{Host: "a b", Port: 80}}).Attempt(t.Context()), "invalid URL escape")
}
