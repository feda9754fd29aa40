package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dirPattern is of the directories that StartDaemon makes by itself.
const dirPattern = "/run/lcs-*"

// A test that is interrupted (^C, a timeout's panic) runs no cleanup. Each daemon's directory therefore names
// the process that owns it, and the next StartDaemon, in whatever test, closes the daemons of dead owners.

func (d *Daemon) ownerFile() string { return filepath.Join(d.Dir, "owner") }

// writeOwner notes this process. A process id alone would not do: they are used again.
func (d *Daemon) writeOwner() error {
	me, err := readProcess(os.Getpid())
	if err == nil {
		err = os.WriteFile(d.ownerFile(), []byte(strconv.Itoa(me.PID)+" "+me.start), 0o600)
	}
	if err != nil {
		return fmt.Errorf("owner of %s: %w", d.Dir, err)
	}
	return nil
}

// orphaned says whether the directory has an owner, and that is dead. One without is being made right now.
func (d *Daemon) orphaned() bool {
	text, err := os.ReadFile(d.ownerFile())
	if err != nil {
		return false
	}
	pid, start, _ := strings.Cut(string(text), " ")
	id, err := strconv.Atoi(pid)
	return err == nil && !Process{PID: id, start: start}.alive()
}

// sweepOrphans does its best: what it cannot remove, another leak check will name.
func sweepOrphans() {
	dirs, _ := filepath.Glob(dirPattern) // the pattern is valid
	for _, dir := range dirs {
		d := daemonIn(dir)
		if !d.orphaned() {
			continue
		}
		all, _ := processes()
		for _, p := range all {
			if p.hasFlag("--config", d.configFile()) || p.hasFlag("--config-file", d.dockerConfigFile()) {
				_ = unix.Kill(p.PID, unix.SIGKILL)
			}
		}
		_ = d.Close()
	}
}
