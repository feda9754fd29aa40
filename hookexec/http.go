package hookexec

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

const (
	// maxBody is how much of a response's body is read
	// (pkg/kubelet/lifecycle/handlers.go, maxRespBodyLength).
	maxBody = 10 << 10
	// maxHeader bounds what a server can make the shim keep.
	maxHeader = 64 << 10
	// maxRedirects: pkg/probe/http/http.go, RedirectChecker.
	maxRedirects = 10
)

// HTTPGet asks a server from inside the container's network namespace. Any
// response is a success, whatever its status. These are the kubelet's rules
// (pkg/kubelet/lifecycle/handlers.go, pkg/probe/http).
type HTTPGet struct {
	NetNS NetNS
	// Get has been checked by package oci.
	Get *lifecyclev1.HTTPGetAction
	// UserAgent is sent where Get has no header of that name.
	UserAgent string
}

// Attempt implements Action. Its end closes every connection that it has made.
func (h *HTTPGet) Attempt(ctx context.Context) Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	response, err := h.send(ctx)
	if err != nil {
		var wrapped *url.Error // its own text has the URL, whose query may be a secret
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return transportFailure(err)
	}
	defer response.Body.Close()
	// The server's answer has come: an error in the rest of it changes nothing.
	_, _ = io.CopyN(io.Discard, response.Body, maxBody)
	return Result{Outcome: Succeeded, ExitCode: -1}
}

func (h *HTTPGet) send(ctx context.Context) (*http.Response, error) {
	request, err := h.request(ctx)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: h.transport(ctx), CheckRedirect: checkRedirect}
	response, err := client.Do(request)
	if !errors.Is(err, http.ErrSchemeMismatch) {
		return response, err
	}
	// A server that does not speak TLS is asked once more in the clear, without
	// what is not for everybody's eyes.
	request.URL.Scheme = "http"
	request.URL.User = nil // or it would be sent as Authorization
	request.Header.Del("Authorization")
	return client.Do(request)
}

// transport of one attempt: no connection is kept, nothing is taken from the
// shim's environment. A connection is closed with the attempt's context, because
// net/http does not close one that the server has switched to another protocol
// (101): reading from it would never end.
func (h *HTTPGet) transport(attempt context.Context) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			conn, err := h.NetNS.dial(ctx, host, port)
			if err == nil {
				context.AfterFunc(attempt, func() { _ = conn.Close() })
			}
			return conn, err
		},
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // Kubernetes' rule: a handler's server has no name to verify
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
}

func (h *HTTPGet) request(ctx context.Context) (*http.Request, error) {
	host, err := h.NetNS.host(h.Get.Host)
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(h.Get.Path) // may have a query
	if err != nil {
		// No URL, such as /50%. Kubernetes sends it escaped, as the whole path.
		target = &url.URL{Path: h.Get.Path}
	}
	target.Scheme = "http"
	if h.Get.Scheme != "" {
		target.Scheme = strings.ToLower(h.Get.Scheme)
	}
	target.Host = net.JoinHostPort(host, strconv.Itoa(int(h.Get.Port)))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header = h.header()
	request.Host = request.Header.Get("Host")
	return request, nil
}

// header: an Accept that is given empty sends none (pkg/probe/http/request.go).
func (h *HTTPGet) header() http.Header {
	header := http.Header{}
	for _, field := range h.Get.HttpHeaders {
		header.Add(field.Name, field.Value)
	}
	if _, given := header["User-Agent"]; !given {
		header.Set("User-Agent", h.UserAgent)
	}
	if _, given := header["Accept"]; !given {
		header.Set("Accept", "*/*")
	} else if header.Get("Accept") == "" {
		header.Del("Accept")
	}
	return header
}

// checkRedirect follows to the same host only; a redirect elsewhere is an answer
// like any other.
func checkRedirect(request *http.Request, via []*http.Request) error {
	switch {
	case request.URL.Hostname() != via[0].URL.Hostname():
		return http.ErrUseLastResponse
	case len(via) >= maxRedirects:
		return errors.New("stopped after " + strconv.Itoa(maxRedirects) + " redirects")
	}
	return nil
}

var _ Action = (*HTTPGet)(nil)
