package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debianShim is the stock runc shim of Debian's containerd 1.6 package.
const debianShim = "/usr/bin/containerd-shim-runc-v2"

// A Server is one containerd version to test against.
type Server struct {
	Name      string // "2.4", "1.7" or "1.6"
	Binary    string // path of containerd
	StockShim string // path of a containerd-shim-runc-v2 this server accepts; empty: none known
}

// Modern says whether the server is of the 2.x line: its configuration and plugin names differ.
func (s Server) Modern() bool { return strings.HasPrefix(s.Name, "2.") }

// Servers lists the servers that can be run here: 2.4 and 1.7 from binDir (`make servers` puts them
// there) and 1.6 from Debian's package. One that is not installed is left out; a caller that needs it
// must say so itself.
func Servers(binDir string) []Server {
	var found []Server
	for _, s := range []Server{
		{Name: "2.4", Binary: filepath.Join(binDir, "containerd"), StockShim: filepath.Join(binDir, "containerd-shim-runc-v2")},
		{Name: "1.7", Binary: filepath.Join(binDir, "containerd-1.7"), StockShim: filepath.Join(binDir, "containerd-shim-runc-v2-1.7")},
		{Name: "1.6", Binary: "/usr/bin/containerd", StockShim: debianShim},
	} {
		if s.isVersion() {
			found = append(found, s)
		}
	}
	return found
}

// isVersion asks the binary itself, as /usr/bin/containerd may be anything. Ours, built without version
// flags, report the version of the source tree they come from.
func (s Server) isVersion() bool {
	if _, err := os.Stat(s.Binary); err != nil {
		return false
	}
	out, err := exec.Command(s.Binary, "--version").Output()
	// "containerd github.com/containerd/containerd/v2 2.4.2+unknown ", Debian: "containerd … 1.6.20~ds1 …"
	return err == nil && strings.Contains(string(out), " "+s.Name+".")
}
