package fleet

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/kubernetes/cluster"
)

const (
	bridge     = "fleet0"
	apiAddress = "10.215.0.1"
	services   = "10.214.0.0/24"
	allPods    = "10.216.0.0/16"
)

// nodeAddress and podRange are those of the node with that number, from 1.
func nodeAddress(number int) string { return fmt.Sprintf("10.215.0.%d", 10+number) }
func podRange(number int) string    { return fmt.Sprintf("10.216.%d.0/24", number) }

// Network is the network namespace of the control plane. It routes between the nodes, and leads to services through the first of them: so a
// client in it is one from outside the cluster.
type Network struct{ file string }

// newNetwork makes it. It lives as long as the file is mounted or a process is in it.
func newNetwork(file string) (*Network, error) {
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return nil, err
	}
	n := &Network{file: file}
	// In a thread that is in this very namespace and ends: so the machine's is left to the others.
	err := cluster.InNetNS("/proc/self/ns/net", func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return makeBridge()
	})
	if err != nil {
		return nil, fmt.Errorf("network of the fleet: %w", err)
	}
	return n, nil
}

func makeBridge() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = bridge
	link := &netlink.Bridge{LinkAttrs: attributes}
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	address, err := netlink.ParseAddr(apiAddress + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return err
	}
	for _, up := range []netlink.Link{lo, link} {
		if err := netlink.LinkSetUp(up); err != nil {
			return err
		}
	}
	if err := route(services, nodeAddress(1)); err != nil {
		return err
	}
	for file, value := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "1",
		// The nodes' other way to each other would be without what kube-proxy knows of a connection.
		"/proc/sys/net/ipv4/conf/all/send_redirects": "0", "/proc/sys/net/ipv4/conf/" + bridge + "/send_redirects": "0",
	} {
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// addRoute leads to the pods of a node.
func (n *Network) addRoute(number int) error {
	return n.In(func() error { return route(podRange(number), nodeAddress(number)) })
}

func route(to, via string) error {
	_, target, err := net.ParseCIDR(to)
	if err != nil {
		return err
	}
	if err := netlink.RouteReplace(&netlink.Route{Dst: target, Gw: net.ParseIP(via)}); err != nil {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	return nil
}

// In calls do in a thread that is in the network.
func (n *Network) In(do func() error) error { return cluster.InNetNS(n.file, do) }

// Dial connects from the network.
func (n *Network) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.In(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
