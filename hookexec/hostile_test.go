package hookexec

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// How a hostile server behaves.
const (
	asksHTTPS = 1 << iota // the handler sends an HTTPS request
	speaksTLS             // the server uses TLS
	stalls                // it keeps the connection open after its response
	repeats               // it repeats the response for ever
	onceEach              // only the first connection gets the response, others get a valid one
)

// hostileServer sends the same response on every connection.
type hostileServer struct {
	text []byte
	how  byte

	connections, sent atomic.Int64
	serving           sync.WaitGroup
}

// mostSent bounds how much an endless server may send.
const mostSent = 64 << 20

func (s *hostileServer) serve(listener net.Listener, certificate *tls.Config) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		first := s.connections.Add(1) == 1
		s.serving.Go(func() {
			defer conn.Close()
			_ = conn.(*net.TCPConn).SetWriteBuffer(1 << 12)
			if s.how&speaksTLS != 0 {
				secure := tls.Server(conn, certificate)
				if secure.Handshake() != nil {
					return
				}
				conn = secure
			}
			s.say(conn, first)
		})
	}
}

func (s *hostileServer) say(conn net.Conn, first bool) {
	text := s.text
	if s.how&onceEach != 0 && !first {
		text = []byte("HTTP/1.1 204 No Content\r\n\r\n")
	}
	for more := true; more; more = s.how&repeats != 0 && len(text) > 0 && s.sent.Load() < mostSent {
		n, err := conn.Write(text)
		s.sent.Add(int64(n))
		if err != nil {
			return
		}
	}
	if s.how&stalls != 0 {
		_, _ = io.Copy(io.Discard, conn) // until the handler closes it
	}
}

// loopback returns a new namespace, so that redirects cannot reach other servers of the
// machine.
func loopback(tb testing.TB) NetNS {
	tb.Helper()
	type made struct {
		handle netns.NsHandle
		err    error
	}
	result := make(chan made, 1)
	go func() {
		runtime.LockOSThread() // the thread ends in the namespace
		handle, err := netns.New()
		if err == nil {
			var link netlink.Link
			if link, err = netlink.LinkByName("lo"); err == nil {
				err = netlink.LinkSetUp(link)
			}
		}
		result <- made{handle, err}
	}()
	m := <-result
	if m.err != nil {
		tb.Fatalf("make a network namespace: %v", m.err)
	}
	tb.Cleanup(func() { _ = m.handle.Close() })
	return NetNS{Pidfd: int(m.handle)} // setns(2) takes either
}

// FuzzHTTPGet: for any response, the handler has a result soon after its timeout at the
// latest. Its text is safe for a terminal, and no connection stays open.
func FuzzHTTPGet(f *testing.F) {
	for _, text := range []string{
		"", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\n\r\n", "HTTP/1.1 302 Found\r\nLocation: file:///etc/shadow\r\n\r\n",
		"HTTP/1.1 307 x\r\nLocation: //\x1b[2J\r\n\r\n", "HTTP/1.1 302 Found\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nx", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nX: x\r\n", "X: x\r\n", "\x15\x03\x01\x00\x02\x02\x28",
		"\x16\x03\x03\xff\xff\x02", "220 \x1b[31mmail\x1b[0m\r\n", "HTTP/1.1 200 \xff\x9b\r\n\r\n", "HTTP/1.1 999999 \r\n\r\n", "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b",
	} {
		for _, how := range []byte{0, stalls, repeats, asksHTTPS, asksHTTPS | speaksTLS, asksHTTPS | speaksTLS | repeats, onceEach} {
			f.Add([]byte(text), how)
		}
	}
	space := loopback(f)
	signed := httptest.NewTLSServer(nil) // provides the certificate
	signed.Close()
	f.Fuzz(func(t *testing.T, text []byte, how byte) {
		listener := space.listen(t, "127.0.0.1:0")
		server := &hostileServer{text: text, how: how}
		server.serving.Go(func() { server.serve(listener, signed.TLS) })
		get := &lifecyclev1.HTTPGetAction{Port: portOf(listener), Host: "127.0.0.1", Path: "/?token=secret", Scheme: "HTTP"}
		if how&asksHTTPS != 0 {
			get.Scheme = "HTTPS"
		}
		const limit, slack = 100 * time.Millisecond, 20 * time.Second // slack for a busy machine
		ctx, cancel := context.WithTimeoutCause(t.Context(), limit, ErrTimedOut)
		defer cancel()
		began := time.Now()
		result := run(ctx, &HTTPGet{NetNS: space, Get: get, UserAgent: "test"}, 0)
		if took := time.Since(began); took > limit+slack {
			t.Errorf("it took %s", took)
		}
		wantOneResult(t, result)
		_ = listener.Close()
		left := make(chan struct{})
		go func() { server.serving.Wait(); close(left) }()
		select {
		case <-left:
		case <-time.After(slack):
			t.Fatal("a connection is still open")
		}
		// Two requests (HTTPS, then HTTP) of maxRedirects each.
		if made := server.connections.Load(); made > 2*maxRedirects {
			t.Errorf("%d connections", made)
		}
		// The sockets' buffers and what net/http reads ahead are far below this.
		if sent := server.sent.Load(); sent >= mostSent {
			t.Errorf("%d bytes were sent", sent)
		}
	})
}

func wantOneResult(t *testing.T, result Result) {
	t.Helper()
	switch result.Outcome {
	case lifecycle.Succeeded:
		if result.Err != nil {
			t.Errorf("succeeded with %v", result.Err)
		}
		return
	case lifecycle.Failed:
	case lifecycle.TimedOut:
		if !errors.Is(result.Err, ErrTimedOut) {
			t.Errorf("timed out with %v", result.Err)
		}
	default:
		t.Errorf("got %+v", result)
	}
	message := result.Message()
	if !utf8.ValidString(message) || len(message) > 4*maxErrorText || strings.ContainsFunc(message, unicode.IsControl) || strings.Contains(message, "secret") {
		t.Errorf("%d bytes: %q", len(message), message)
	}
	if result.ExitCode != -1 || result.Output != "" || result.Attempts != 1 {
		t.Errorf("got %+v", result)
	}
}

// FuzzHostAnswer: the host is of our own build; even so, any answer is read with limits, or
// refused.
func FuzzHostAnswer(f *testing.F) {
	for _, text := range []string{"", "{}", `{"Error": "x"}`, `{"Pid": 1}`, `{"Pid": -1}`, `{"Pid": 1e99}`, "[", "null", "\x00", `{"Error": "\u001b[2J"}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		channel, files, err := newChannel()
		if err != nil {
			t.Fatal(err)
		}
		defer channel.close()
		defer closeAll(files[1])
		go func() {
			_, _ = io.Copy(files[0], bytes.NewReader(text)) // if it is too long, not all of it is read
			_ = files[0].Close()
		}()
		pid, err := channel.response()
		if err != nil && pid != 0 {
			t.Errorf("pid %d with %v", pid, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "cannot start: ") {
			t.Errorf("%q does not begin with what failed", err)
		}
		if _, err := channel.handler(pid); err == nil {
			t.Error("no error and no process")
		}
	})
}
