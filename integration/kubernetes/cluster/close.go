package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// logTail is how much of a log an error shows, in bytes.
const logTail = 4096

func tail(text string) string { return text[max(0, len(text)-logTail):] }

// Sweep removes what clusters of dead tests have left, as StartAPI does first. It does its best: what it cannot remove, a leak check will name.
func Sweep() {
	dirs := harness.Orphans(dirPattern)
	for _, dir := range dirs {
		_ = harness.KillNaming(dir) // before the containers, or a kubelet would start them again
	}
	harness.Sweep()
	for _, dir := range dirs {
		_ = remove(dir)
	}
}

// RemoveDir removes the directory of MakeDir, if it is still there, with what is mounted and which cgroups there are for it.
func RemoveDir(dir string) error { return remove(dir) }

// remove takes back what a cluster whose servers have ended has left.
func remove(dir string) error {
	errs := []error{restoreMachine(dir), harness.UnmountBelow(dir)}
	harness.RemoveCgroupTree(cgroupRoot(dir))
	if err := os.RemoveAll(dir); err != nil {
		errs = append(errs, fmt.Errorf("directory of the cluster: %w", err))
	}
	return errors.Join(errs...)
}

// freePorts are ports of the loopback that are free. Nothing keeps others from taking them, but the kernel gives
// them out again only after all the others.
func freePorts(count int) ([]int, error) {
	var ports []int
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("a free port: %w", err)
		}
		defer listener.Close() // after the last: they are to differ
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
