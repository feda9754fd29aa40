package cluster

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Place says where the servers of an API listen, and who may ask them.
type Place struct {
	NetNS                    string // the file of their network namespace; empty: the machine's
	Address                  string
	Port, EtcdPort, PeerPort int
	Users                    []User   // besides the administrator
	Flags                    []string // of the API server
}

// User is a client of the API server.
type User struct {
	Name, Token string
	Groups      []string
}

// loopback is what StartAPI uses: everybody may do everything, and there are no service accounts.
func loopback() (Place, error) {
	ports, err := freePorts(3)
	if err != nil {
		return Place{}, err
	}
	return Place{
		Address: "127.0.0.1", Port: ports[0], EtcdPort: ports[1], PeerPort: ports[2],
		Flags: []string{
			"--authorization-mode=AlwaysAllow",
			// No controller makes the service accounts that every pod would have to have.
			"--disable-admission-plugins=ServiceAccount",
			// There is no service to reach this server by, and 127.0.0.1 would not be allowed as its address.
			"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.214.0.0/24",
		},
	}, nil
}

// tokens are the users' lines of the API server's file.
func (p Place) tokens() string {
	var b strings.Builder
	for _, user := range p.Users {
		fmt.Fprintf(&b, "%s,%s,%s,%q\n", user.Token, user.Name, user.Name, strings.Join(user.Groups, ","))
	}
	return b.String()
}

// command runs a program there.
func (p Place) command(program string, args ...string) []string {
	command := append([]string{program}, args...)
	if p.NetNS != "" {
		command = slices.Concat([]string{"/usr/bin/nsenter", "--net=" + p.NetNS}, command)
	}
	return command
}

// dial connects from there. It is for addresses, not names: a resolver would work in other threads.
func (p Place) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = InNetNS(p.NetNS, func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// InNetNS calls do in a thread that is in the network namespace of that file: sockets that it opens stay there. An empty name is the
// machine's.
func InNetNS(file string, do func() error) error {
	if file == "" {
		return do()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		result <- enterNetNS(file, do)
	}()
	return <-result
}

func enterNetNS(file string, do func() error) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", file, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("network namespace %s: %w", file, err)
	}
	return do()
}
