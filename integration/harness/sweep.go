package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dirPattern is of the directories that StartDaemon makes by itself.
const dirPattern = "/run/lcs-*"

// A test that is interrupted (^C, a timeout's panic) runs no cleanup. Each daemon's directory therefore names
// the process that owns it, and the next StartDaemon, in any test, closes the daemons of dead owners.

func ownerFile(dir string) string { return filepath.Join(dir, "owner") }

// Own notes in dir that it is this process's. A process id alone would not do: they are used again.
func Own(dir string) error {
	me, err := readProcess(os.Getpid())
	if err == nil {
		err = os.WriteFile(ownerFile(dir), []byte(strconv.Itoa(me.PID)+" "+me.start), 0o600)
	}
	if err != nil {
		return fmt.Errorf("owner of %s: %w", dir, err)
	}
	return nil
}

// Orphans lists the directories of a valid pattern whose owner is dead.
func Orphans(pattern string) []string {
	dirs, _ := filepath.Glob(pattern)
	return slices.DeleteFunc(dirs, func(dir string) bool { return !orphaned(dir) })
}

// orphaned says whether the directory has an owner, and that is dead. One without is being made right now.
func orphaned(dir string) bool {
	text, err := os.ReadFile(ownerFile(dir))
	if err != nil {
		return false
	}
	pid, start, _ := strings.Cut(string(text), " ")
	id, err := strconv.Atoi(pid)
	return err == nil && !Process{PID: id, start: start}.alive()
}

// Sweep is what StartDaemon does first. It does its best: what it cannot remove, another leak check will name.
func Sweep() {
	for _, dir := range Orphans(dirPattern) {
		d := daemonIn(dir)
		all, _ := processes()
		for _, p := range all {
			if p.hasFlag("--config", d.configFile()) || p.hasFlag("--config-file", d.dockerConfigFile()) {
				_ = unix.Kill(p.PID, unix.SIGKILL)
			}
		}
		_ = d.Close()
	}
}

// KillNaming ends the processes that have been started with a path below dir in an argument, and waits for their end.
func KillNaming(dir string) error {
	all, err := processes()
	if err != nil {
		return err
	}
	doomed := slices.DeleteFunc(all, func(p Process) bool { return !p.names(dir) || p.PID == os.Getpid() })
	for _, p := range doomed {
		_ = unix.Kill(p.PID, unix.SIGKILL) // gone already: what we want
	}
	return awaitEnd(doomed)
}
