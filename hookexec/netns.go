package hookexec

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netns"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// NetNS is a container's network namespace.
type NetNS struct {
	// Pidfd of a process in it, which setns(2) takes since Linux 5.8, or an open file of
	// the namespace. A path with a pid would not do: the pid may be reused.
	Pidfd int
}

// do runs f on a thread in the namespace. The thread returns to its own namespace before other goroutines can run on it. It
// must not end: processes that it started, such as the shim's runc, have a Pdeathsig, which the kernel sends when the forking
// thread exits.
func (n NetNS) do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := n.visit(f)
		if back {
			runtime.UnlockOSThread()
		} // else the thread ends with the goroutine: a killed runc is better than one in a wrong namespace
		result <- err
	}()
	return <-result
}

// visit reports whether the thread has returned to its own namespace.
func (n NetNS) visit(f func() error) (back bool, err error) {
	own, err := netns.Get()
	if err != nil {
		return true, fmt.Errorf("open the shim's own network namespace: %w", err)
	}
	defer own.Close()
	if err := netns.Set(netns.NsHandle(n.Pidfd)); err != nil {
		return true, fmt.Errorf("enter the container's network namespace: %w", err)
	}
	defer func() { back = netns.Set(own) == nil }()
	return false, contained(f)
}

// contained returns a panic as an error: f runs in a separate goroutine, where no caller
// can recover it.
func contained(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic: %v", value)
		}
	}()
	return f()
}

// dial connects to a host that is an IP address or localhost. A socket stays in the
// namespace in which it was created, so any thread can use it afterwards.
func (n NetNS) dial(ctx context.Context, host, port string) (conn net.Conn, err error) {
	addresses := []string{host}
	if host == localhost { // no lookup: /etc/hosts would be the shim's, not the container's
		addresses = []string{"127.0.0.1", "::1"}
	} else if _, err := netip.ParseAddr(host); err != nil {
		return nil, fmt.Errorf("host %q is neither an IP address nor localhost", host)
	}
	err = n.do(func() error {
		var errs []error
		for _, address := range addresses {
			dialled, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(address, port))
			if err == nil {
				conn = dialled
				return nil
			}
			errs = append(errs, err)
		}
		return errs[0]
	})
	return conn, err
}

const localhost = "localhost"

// host returns the named host if there is one, else the namespace's first global address,
// else localhost. The kernel lists IPv4 addresses before IPv6 ones, each by interface; so
// the first is a pod's first address (status.podIPs).
func (n NetNS) host(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	host := localhost
	err := n.do(func() error {
		addresses, err := net.InterfaceAddrs()
		if err != nil {
			return fmt.Errorf("list the addresses of the container's network namespace: %w", err)
		}
		for _, address := range addresses {
			if prefix, ok := address.(*net.IPNet); ok && prefix.IP.IsGlobalUnicast() {
				host = prefix.IP.String()
				return nil
			}
		}
		return nil
	})
	return host, err
}

// transportFailure is the result of an attempt that got no connection or no response. The
// error's text may contain data from the peer.
func transportFailure(err error) Result {
	text := shorten.End(shorten.OneLine(printable([]byte(err.Error()))), maxErrorText)
	return Result{Outcome: lifecycle.Failed, Err: errors.New(text), ExitCode: -1}
}

// maxErrorText bounds an error's text that may contain data from a peer, in bytes.
const maxErrorText = 1024
