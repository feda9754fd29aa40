package hookexec

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestNoResponseIsAFailure: the error's text is safe for a terminal and does not contain the
// URL's query.
func TestNoResponseIsAFailure(t *testing.T) {
	says := func(text string) http.HandlerFunc {
		return func(response http.ResponseWriter, _ *http.Request) {
			conn, _, err := response.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"none":              {says(""), "EOF"},
		"another protocol":  {says("220 \x1b[31mmail\x1b[0m ready\r\n"), "malformed HTTP"},
		"bytes":             {says("\x00\xff\xfe\r\n\r\n"), "malformed HTTP"},
		"half of one":       {says("HTTP/1.1 200"), "unexpected EOF"},
		"an endless header": {says("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), "exceeded"},
		"a long word":       {says(strings.Repeat("\"\x01", 3000) + "\r\n"), "malformed HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWeb(t, false, test.answer)
			result := w.get(t, &lifecyclev1.HTTPGetAction{Path: "/?token=secret"})
			wantFailure(t, result, test.says)
			text := result.Err.Error()
			if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) || len(text) > 2*maxErrorText || strings.Contains(text, "secret") {
				t.Errorf("%d bytes: %q", len(text), text)
			}
		})
	}
	t.Run("a closed port", func(t *testing.T) {
		w := newWeb(t, false, nil)
		wantFailure(t, w.get(t, &lifecyclev1.HTTPGetAction{Port: 1}), "dial tcp "+inside+":1: connect: connection refused")
	})
	t.Run("open only outside", func(t *testing.T) {
		outside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler left its namespace") }))
		defer outside.Close()
		n := newNetNS(t)
		get := &lifecyclev1.HTTPGetAction{Port: portOf(outside.Listener)}
		wantFailure(t, (&HTTPGet{NetNS: n, Get: get}).Attempt(t.Context()), "connection refused")
	})
}

// raw responds with exactly this text, and then keeps the connection open until the handler closes it.
func raw(text string) http.HandlerFunc {
	return func(response http.ResponseWriter, _ *http.Request) {
		conn, _, err := response.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, text)
		_, _ = io.Copy(io.Discard, conn)
	}
}

// TestLargestResponse: a header may have 64 KiB, and at most 10 KiB of a body are read.
func TestLargestResponse(t *testing.T) {
	header := func(size int) string {
		const before, after = "HTTP/1.1 200 OK\r\nContent-Length: 999999\r\nX: ", "\r\n\r\n"
		return before + strings.Repeat("x", size-len(before)-len(after)) + after
	}
	for name, test := range map[string]struct{ text, fails string }{
		"the longest header":        {header(64<<10) + strings.Repeat("x", 10<<10), ""},
		"a header that is too long": {header(64<<10+1) + strings.Repeat("x", 10<<10), "exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWeb(t, false, raw(test.text))
			ended := make(chan Result, 1)
			go func() { ended <- w.get(t, &lifecyclev1.HTTPGetAction{}) }()
			select {
			case result := <-ended:
				if test.fails == "" {
					wantSuccess(t, result)
				} else {
					wantFailure(t, result, test.fails)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it waits for more of the body")
			}
		})
	}
}

// TestBodyIsWaitedFor: the connection is not closed while the server sends the body.
func TestBodyIsWaitedFor(t *testing.T) {
	left := make(chan bool, 1)
	w := newWeb(t, false, func(response http.ResponseWriter, _ *http.Request) {
		conn, _, err := response.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err = conn.Read(make([]byte, 1))
		left <- !errors.Is(err, os.ErrDeadlineExceeded)
		_, _ = io.WriteString(conn, "hello")
	})
	wantSuccess(t, w.get(t, &lifecyclev1.HTTPGetAction{}))
	if <-left {
		t.Error("the connection was closed before the body was sent")
	}
}

// TestEndlessBody: only 10 KiB of it are read.
func TestEndlessBody(t *testing.T) {
	ended := make(chan error, 1)
	w := newWeb(t, false, func(response http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := io.WriteString(response, strings.Repeat("x", 1<<16)); err != nil {
				ended <- err
				return
			}
		}
	})
	wantSuccess(t, w.get(t, &lifecyclev1.HTTPGetAction{}))
	if err := <-ended; err == nil {
		t.Error("the connection was never closed")
	}
}

// TestHTTPEndsWithItsContext at any step of the request.
func TestHTTPEndsWithItsContext(t *testing.T) {
	for name, secure := range map[string]bool{"waiting for the answer": false, "waiting for the answer, TLS": true} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			w := newWeb(t, secure, func(_ http.ResponseWriter, request *http.Request) {
				cancel(ErrTimedOut)
				<-request.Context().Done() // the connection is closed
			})
			get := &lifecyclev1.HTTPGetAction{Port: w.port, Scheme: map[bool]string{true: "HTTPS"}[secure]}
			result := run(ctx, &HTTPGet{NetNS: w.netns, Get: get}, 0)
			if result.Outcome != lifecycle.TimedOut || !errors.Is(result.Err, ErrTimedOut) {
				t.Errorf("got %+v", result)
			}
		})
	}
	t.Run("after a protocol switch", func(t *testing.T) {
		// net/http leaves such a connection to its caller.
		ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, ErrTimedOut)
		defer cancel()
		w := newWeb(t, false, func(response http.ResponseWriter, _ *http.Request) {
			conn, _, err := response.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nx")
			_, _ = io.Copy(io.Discard, conn) // until it is closed
		})
		ended := make(chan Result, 1)
		go func() { ended <- run(ctx, &HTTPGet{NetNS: w.netns, Get: &lifecyclev1.HTTPGetAction{Port: w.port}}, 0) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("it did not end")
		}
	})
	t.Run("in the TLS handshake", func(t *testing.T) {
		n := newNetNS(t, inside+"/24")
		listener := n.listen(t, inside+":0")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = bufio.NewReader(conn).ReadByte() // its greeting
			cancel(ErrContainerExited)
			_, _ = io.Copy(io.Discard, conn) // until it is closed
		}()
		get := &lifecyclev1.HTTPGetAction{Port: portOf(listener), Scheme: "HTTPS"}
		result := run(ctx, &HTTPGet{NetNS: n, Get: get}, 0)
		if result.Outcome != lifecycle.Aborted || !errors.Is(result.Err, ErrContainerExited) {
			t.Errorf("got %+v", result)
		}
	})
}
