package hookexec

import (
	"fmt"
	"net"
	"strings"
	"testing"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

func TestTCPSocket(t *testing.T) {
	n := newNetNS(t, "10.1.2.3/24", "fd00::7/64")
	// The same port is open outside; the handler must not reach it.
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	for name, test := range map[string]struct {
		listen, host string
		port         int32
		refused      string
	}{
		"the default host":         {listen: "10.1.2.3:0"},
		"IPv4":                     {listen: "127.0.0.1:0", host: "127.0.0.1"},
		"IPv6":                     {listen: "[fd00::7]:0", host: "fd00::7"},
		"localhost":                {listen: "127.0.0.1:0", host: "localhost"},
		"localhost, IPv6 only":     {listen: "[::1]:0", host: "localhost"},
		"open only outside":        {host: "127.0.0.1", port: portOf(outside), refused: "dial tcp 127.0.0.1:%d: connect: connection refused"},
		"localhost, not open":      {host: "localhost", port: portOf(outside), refused: "dial tcp 127.0.0.1:%d: connect: connection refused"},
		"unreachable":              {host: "192.0.2.1", port: 80, refused: "dial tcp 192.0.2.1:%d: connect: network is unreachable"},
		"neither name nor address": {host: "example.com", port: 80, refused: `host "example.com" is neither an IP address nor localhost`},
	} {
		t.Run(name, func(t *testing.T) {
			if test.listen != "" {
				test.port = portOf(n.listen(t, test.listen))
			}
			action := &TCPSocket{NetNS: n, Socket: &lifecyclev1.TCPSocketAction{Host: test.host, Port: test.port}}
			result := action.Attempt(t.Context())
			if test.refused == "" {
				if result.Outcome != lifecycle.Succeeded || result.Err != nil || result.ExitCode != -1 {
					t.Errorf("got %+v", result)
				}
				return
			}
			if strings.Contains(test.refused, "%d") {
				test.refused = fmt.Sprintf(test.refused, test.port)
			}
			if result.Outcome != lifecycle.Failed || result.Err.Error() != test.refused || result.ExitCode != -1 {
				t.Errorf("got %+v, want %q", result, test.refused)
			}
		})
	}
}
