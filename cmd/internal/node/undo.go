package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// revert brings back what was at an entry's path. note is not empty if it left something there. keep leaves the second name of the
// file that keepOld gave it.
func (j *journal) revert(e entry, keep bool) (note string, err error) {
	if e.Dir {
		err := os.Remove(e.Path)
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, fs.ErrNotExist) {
			return "", nil // others have files there
		}
		return "", err
	}
	_ = os.Remove(e.Path + newSuffix)
	if !keep {
		_ = os.Remove(e.Path + oldSuffix)
	}
	now, err := stateOf(e.Path)
	switch {
	case err != nil || now == nil && e.Before == nil || now != nil && e.Before != nil && same(now, e.Before):
		return "", err
	case now == nil:
		return fmt.Sprintf("%s was removed by others, and stays so", e.Path), nil
	case e.wrote(now):
		return "", j.restore(e)
	}
	return j.revertEdited(e, now)
}

// revertEdited reverts a file that others have edited or replaced since the installation.
func (j *journal) revertEdited(e entry, now *State) (note string, err error) {
	if now.Link == "" && (e.Block || e.Dropin) {
		text, err := os.ReadFile(e.Path)
		if err != nil {
			return "", err
		}
		if e.Dropin && isDropin(text) {
			return "", j.restore(e)
		}
		if e.Block && hasBlock(text) {
			return "", removeBlock(e, text, now)
		}
	}
	return fmt.Sprintf("%s was changed by others since, and stays as it is", e.Path), nil
}

// removeBlock removes our lines from a text that others have edited.
func removeBlock(e entry, text []byte, now *State) error {
	own, err := withoutBlock(text)
	if err != nil {
		return fmt.Errorf("cannot remove our lines from %s: %w", e.Path, err)
	}
	if e.Before == nil && len(bytes.TrimSpace(own)) == 0 {
		return removeFile(e.Path)
	}
	if err := stage(e.Path, bytes.NewReader(own), *now); err != nil {
		return err
	}
	return promote(e.Path)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// restore puts back what was there, with mode, owner and attributes.
func (j *journal) restore(e entry) error {
	switch before := e.Before; {
	case before == nil:
		return removeFile(e.Path)
	case before.Link != "":
		_ = os.Remove(e.Path + newSuffix)
		if err := os.Symlink(before.Link, e.Path+newSuffix); err != nil {
			return err
		}
		if err := os.Lchown(e.Path+newSuffix, before.UID, before.GID); err != nil {
			return err
		}
		return promote(e.Path)
	}
	from, err := os.Open(filepath.Join(j.dir, e.Before.Backup))
	if err != nil {
		return fmt.Errorf("cannot restore %s: %w", e.Path, err)
	}
	defer from.Close()
	if err := stage(e.Path, from, *e.Before); err != nil {
		return err
	}
	return promote(e.Path)
}

// removal undoes an installation.
type removal struct {
	config  string
	journal *journal
	// legacy is where the installer of earlier builds left its mark.
	legacy string
	step   func(string)
	notes  []string
}

// mine returns the entries to revert, in the order in which they were made.
func (r *removal) mine() []entry {
	others := r.journal.others(r.config)
	return slices.DeleteFunc(slices.Clone(r.journal.Entries), func(e entry) bool {
		return others && e.Config != r.config // programs, settings and directories serve the others too
	})
}

// apply reverts everything. It can be interrupted anywhere, and be repeated.
func (r *removal) apply() *Failure {
	j := r.journal
	mine := r.mine()
	if len(mine) == 0 {
		if j.empty() { // an installation that was interrupted before its journal was complete has changed nothing else
			_ = j.remove()
		}
		return nil
	}
	if j.Phase != "" { // what the installer of an earlier build did has no journal
		r.step("record the removal")
		j.Phase = phaseRemoving
		if err := j.save(); err != nil {
			return fail(StepJournal, "", "cannot record the removal: %s. Nothing is changed.", err)
		}
	}
	for _, e := range slices.Backward(mine) {
		if e.Dir && below(j.dir, e.Path) {
			continue // it holds the journal, and is removed last
		}
		r.step("take back " + e.Path)
		note, err := j.revert(e, false)
		if err != nil {
			return fail(StepWrite, "run this again", "cannot take back %s: %s", e.Path, err)
		}
		if note != "" {
			r.notes = append(r.notes, note)
		}
	}
	r.step("remove the journal")
	if !j.others(r.config) {
		_ = os.Remove(filepath.Join(r.legacy, legacyMark))
		_ = os.Remove(r.legacy) // fails if it has other files, which stay
		if err := j.remove(); err != nil {
			return fail(StepJournal, "run this again", "cannot remove the journal: %s", err)
		}
		return nil
	}
	j.Entries = slices.DeleteFunc(j.Entries, func(e entry) bool { return slices.ContainsFunc(mine, func(m entry) bool { return m.Path == e.Path }) })
	j.Phase = phaseInstalled
	if err := j.save(); err != nil {
		return fail(StepJournal, "run this again", "cannot write the journal: %s", err)
	}
	return nil
}
