package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
)

// journalFormat is the version of the journal's format. A journal of another one is refused.
const journalFormat = 1

const (
	journalName  = "journal.json"
	backupPrefix = "before-"
)

// Phases of an installation.
const (
	phaseInstalling = "installing"
	phaseInstalled  = "installed"
	phaseRemoving   = "removing"
)

// journal records what was there before the first change. It is written before anything else, and removed last.
type journal struct {
	Format int    `json:"format"`
	Phase  string `json:"phase"`
	Build  string `json:"build"`
	// Entries in the order in which they were made.
	Entries []entry `json:"entries"`

	dir string
}

// entry is one file or directory.
type entry struct {
	Path string `json:"path"`
	// Config is the containerd's configuration that it is for; it is empty for programs and settings, which serve all.
	Config string `json:"config,omitempty"`
	// Dir is set for a directory that the installation has made.
	Dir bool `json:"dir,omitempty"`
	// Block is set if only the lines between our marks are ours.
	Block bool `json:"block,omitempty"`
	// Dropin is set for a file of ours in a directory of drop-ins.
	Dropin bool `json:"dropin,omitempty"`
	// Before is nil if nothing was there. After is what the installation writes.
	Before *State `json:"before"`
	After  *State `json:"after,omitempty"`
	// Ours are the hashes of what earlier installations wrote, until this one is complete.
	Ours []string `json:"ours,omitempty"`
}

// wrote reports whether an installation wrote what is at the entry's path now.
func (e *entry) wrote(now *State) bool {
	return same(now, e.After) || now != nil && slices.Contains(e.Ours, now.SHA256)
}

// maxJournal bounds a journal, in bytes. Its entries are about a dozen.
const maxJournal = 1 << 20

// loadJournal returns an empty journal if there is none.
func loadJournal(dir string) (*journal, *Failure) {
	j := &journal{Format: journalFormat, dir: dir}
	path := filepath.Join(dir, journalName)
	if err := trust.Place(resolve(path)); err != nil {
		return nil, refuseShared(resolve(path), err)
	}
	text, err := trust.ReadFile(path, maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err == nil {
		err = json.Unmarshal(text, j)
	}
	if err == nil && j.Format != journalFormat {
		err = fmt.Errorf("it has format %d, this build knows %d", j.Format, journalFormat)
	}
	if err != nil {
		return nil, fail(StepJournal, "use the build that made it, or restore the node's files by hand and remove it", "cannot read the journal of the installation, %s: %s", path, err)
	}
	return j, nil
}

func (j *journal) empty() bool { return len(j.Entries) == 0 }

// find returns the entry of a path, or nil.
func (j *journal) find(path string) *entry {
	if i := slices.IndexFunc(j.Entries, func(e entry) bool { return e.Path == path }); i >= 0 {
		return &j.Entries[i]
	}
	return nil
}

// save writes the journal durably. The previous one stays until the rename.
func (j *journal) save() error {
	text, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(j.dir, journalName)
	if err := stage(path, bytes.NewReader(append(text, '\n')), State{Mode: 0o600}); err != nil {
		return err
	}
	return promote(path)
}

// backUp copies a file's contents into the journal's directory.
func (j *journal) backUp(path string, state *State) error {
	if state == nil || state.Link != "" {
		return nil
	}
	name := backupPrefix + state.SHA256
	to := filepath.Join(j.dir, name)
	if _, err := os.Stat(to); err != nil {
		from, err := os.Open(path)
		if err != nil {
			return err
		}
		defer from.Close()
		if err := stage(to, from, State{Mode: 0o600}); err != nil {
			return err
		}
		if err := promote(to); err != nil {
			return err
		}
	}
	if sum, err := hashOf(to); err != nil || sum != state.SHA256 {
		return errors.Join(err, os.Remove(to), fmt.Errorf("%s has changed while it was copied: run this again", path))
	}
	state.Backup = name
	return nil
}

// backUpText does the same with contents that are not at a path.
func (j *journal) backUpText(text []byte, state *State) error {
	state.SHA256 = hashOfText(text)
	state.Backup = backupPrefix + state.SHA256
	to := filepath.Join(j.dir, state.Backup)
	if err := stage(to, bytes.NewReader(text), State{Mode: 0o600}); err != nil {
		return err
	}
	return promote(to)
}

// dropBackups removes copies that no entry needs.
func (j *journal) dropBackups() {
	needed := map[string]bool{}
	for _, e := range j.Entries {
		if e.Before != nil {
			needed[e.Before.Backup] = true
		}
	}
	found, _ := os.ReadDir(j.dir) // what stays is removed with the journal
	for _, file := range found {
		if strings.HasPrefix(file.Name(), backupPrefix) && !needed[file.Name()] {
			_ = os.Remove(filepath.Join(j.dir, file.Name()))
		}
	}
}

// remove removes the journal after everything else has been put back: first the journal itself, so that an interruption leaves
// only empty directories.
func (j *journal) remove() error {
	dirs := []entry{}
	for _, e := range j.Entries {
		if e.Dir {
			dirs = append(dirs, e)
		}
	}
	path := filepath.Join(j.dir, journalName)
	tidy(path)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.Entries = nil
	j.dropBackups()
	_ = os.Remove(j.dir) // fails if it has other files, which stay
	for _, e := range slices.Backward(dirs) {
		_ = os.Remove(e.Path)
	}
	return nil
}

// refuseShared is the failure for a place that others than root can change: they could make containerd run any program as root.
func refuseShared(path string, err error) *Failure {
	culprit := path
	var found *trust.Culprit
	if errors.As(err, &found) {
		culprit = found.Path
	}
	return fail(StepTrust, "", "cannot write %s, because others than root can change %s: chown root:root and chmod go-w it first. Nothing is changed.", path, culprit)
}
