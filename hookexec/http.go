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
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

const (
	// maxBody is how many bytes of a response's body are read
	// (pkg/kubelet/lifecycle/handlers.go, maxRespBodyLength).
	maxBody = 10 << 10
	// maxHeader bounds the memory that a server can make the shim use.
	maxHeader = 64 << 10
	// maxRedirects is the kubelet's (pkg/probe/http/http.go, RedirectChecker).
	maxRedirects = 10
)

// HTTPGet sends a request from inside the container's network namespace. Any response is
// a success, with any status. These are the kubelet's rules
// (pkg/kubelet/lifecycle/handlers.go, pkg/probe/http).
type HTTPGet struct {
	NetNS NetNS
	// Get has been checked by package oci.
	Get *lifecyclev1.HTTPGetAction
	// UserAgent is sent unless Get has a header of that name.
	UserAgent string
}

// Attempt implements Action. It closes every connection before it returns.
func (h *HTTPGet) Attempt(ctx context.Context) Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	response, err := h.send(ctx)
	if err != nil {
		var wrapped *url.Error // its text contains the URL, and the query may be a secret
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return transportFailure(err)
	}
	defer response.Body.Close()
	// The server has answered. An error while reading the body does not matter.
	_, _ = io.CopyN(io.Discard, response.Body, maxBody)
	return Result{Outcome: lifecycle.Succeeded, ExitCode: -1}
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
	// The server does not speak TLS. Send the request again in plain text, without
	// credentials.
	request.URL.Scheme = "http"
	request.URL.User = nil // else it would be sent as Authorization
	request.Header.Del("Authorization")
	return client.Do(request)
}

// transport returns the transport of one attempt. It reuses no connection and ignores the
// shim's proxy environment. Connections are closed when the attempt's context is
// cancelled: net/http does not close one that the server switched to another protocol
// (101), and reading from that could block for ever.
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
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as in Kubernetes: a handler's server has no name to verify
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
		// Not a valid URL, such as /50%. Like Kubernetes, escape all of it as a path.
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

// header returns the request's header. An empty Accept means that none is sent
// (pkg/probe/http/request.go).
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

// checkRedirect follows redirects to the same host only. A redirect to another host is
// taken as the response.
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
