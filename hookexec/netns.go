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
)

// NetNS is a container's network namespace.
type NetNS struct {
	// Pidfd of a process that is in it. Not a path with the process's number,
	// which may be another one's by now (setns(2) takes one since Linux 5.8).
	Pidfd int
}

// do runs f on a thread in the namespace. The thread is put back before anybody else meets it, and goes on: whatever it
// started before, such as the shim's runc, would be killed at its end (Pdeathsig, which is the forking thread's).
func (n NetNS) do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := n.visit(f)
		if back {
			runtime.UnlockOSThread()
		} // else the goroutine's end ends the thread: worse than a runc that is killed is one in a foreign namespace
		result <- err
	}()
	return <-result
}

// visit tells whether the thread is in its own namespace afterwards.
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

// contained makes an error of a panic: nobody above this goroutine could.
func contained(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic: %v", value)
		}
	}()
	return f()
}

// dial connects to a host that is an IP address or localhost. A socket belongs
// to the namespace in which it was made, whichever thread uses it then.
func (n NetNS) dial(ctx context.Context, host, port string) (conn net.Conn, err error) {
	addresses := []string{host}
	if host == localhost { // not looked up: the files that say so are the shim's, not the container's
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

// host returns the one that is meant: the named one, else the namespace's first
// global address, else localhost. The kernel lists IPv4 before IPv6, and each by
// interface, as a pod's first address is (status.podIPs).
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

// transportFailure is the result of an attempt that got no connection, or no
// answer. What a peer has sent may be in the error's text.
func transportFailure(err error) Result {
	text := shorten.End(shorten.OneLine(printable([]byte(err.Error()))), maxErrorText)
	return Result{Outcome: Failed, Err: errors.New(text), ExitCode: -1}
}

// maxErrorText bounds a text that a peer has a part in, in bytes.
const maxErrorText = 1024
