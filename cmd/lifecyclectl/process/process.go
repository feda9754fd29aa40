// Package process tells the node's own daemons from processes that only bear their
// names. What runs in containers is among the processes of the node too, and may call
// itself containerd or a shim: lifecyclectl, which is root's, must neither run its
// programs nor open its files, nor show what it says.
package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OfTheNode tells whether the process of that directory of /proc has CAP_SYS_ADMIN in
// our own user namespace. containerd and its shims need it; a container that has it
// can do what root can.
func OfTheNode(dir string) bool {
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return false
	}
	users, err := os.Readlink(filepath.Join(dir, "ns/user"))
	if err != nil || users != own {
		return false
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	return err == nil && effective(status)&(1<<unix.CAP_SYS_ADMIN) != 0
}

// effective capabilities, of proc_pid_status(5). The name of the process is in that
// file too, with its newlines escaped.
func effective(status []byte) uint64 {
	for line := range bytes.Lines(status) {
		if value, ok := strings.CutPrefix(string(line), "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				return 0
			}
			return set
		}
	}
	return 0
}
