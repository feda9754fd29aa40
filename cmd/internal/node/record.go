package node

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"

	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// record writes the journal before anything is changed. What an earlier journal says of the time before stays, unless others have
// replaced a file since.
func (c *change) record() error {
	c.step("make the journal's directory")
	c.addDirs(missingDirs(c.state))
	if err := makeDirs(c.state); err != nil {
		return err
	}
	if err := keepOld(filepath.Join(c.state, journalName)); err != nil {
		return err
	}
	for i, t := range c.wanted {
		c.addDirs(missingDirs(filepath.Dir(t.Path)))
		before, err := c.before(t)
		if err != nil {
			return err
		}
		c.wanted[i].Before = before
		if known := c.journal.find(t.Path); known != nil {
			c.wanted[i].Ours = append(known.Ours, known.After.SHA256)
			*known = c.wanted[i].entry
		} else {
			c.journal.Entries = append(c.journal.Entries, c.wanted[i].entry)
		}
	}
	c.step("record what is there")
	c.journal.Phase, c.journal.Build = phaseInstalling, version.Version
	return c.journal.save()
}

func (c *change) addDirs(dirs []string) {
	for _, dir := range dirs {
		if c.journal.find(dir) == nil {
			c.journal.Entries = append(c.journal.Entries, entry{Path: dir, Dir: true})
		}
	}
}

// before returns what has to be put back at a path, and backs it up.
func (c *change) before(t target) (*State, error) {
	now, err := stateOf(t.Path)
	if err != nil {
		return nil, err
	}
	known := c.journal.find(t.Path)
	if known != nil && (known.wrote(now) || same(now, known.Before) || t.from != "") {
		return known.Before, nil
	}
	if now == nil {
		return nil, nil
	}
	if t.from == "" && now.Link == "" {
		text, err := os.ReadFile(t.Path)
		if err != nil {
			return nil, err
		}
		if done, before, err := c.beforeText(t, known, now, text); done || err != nil {
			return before, err
		}
	}
	if t.from != "" && c.isLegacy() {
		return nil, nil
	}
	return now, c.journal.backUp(t.Path, now)
}

// beforeText looks for lines of ours in a text that no journal knows, or that others have edited since. done is set if before is
// the answer.
func (c *change) beforeText(t target, known *entry, now *State, text []byte) (done bool, before *State, err error) {
	switch {
	case t.Dropin && isDropin(text):
		if known != nil {
			return true, known.Before, nil
		}
		return true, nil, nil
	case t.Block && hasBlock(text):
		own, err := withoutBlock(text)
		if err != nil || len(bytes.TrimSpace(own)) == 0 {
			return true, nil, err
		}
		before := *now
		return true, &before, c.journal.backUpText(own, &before)
	}
	return false, nil, nil
}

// isLegacy reports whether the installer of an earlier build has copied programs here.
func (c *change) isLegacy() bool {
	_, err := os.Lstat(filepath.Join(c.legacy, legacyMark))
	return err == nil
}

// others reports whether the journal has entries for another containerd.
func (j *journal) others(config string) bool {
	return slices.ContainsFunc(j.Entries, func(e entry) bool { return e.Config != "" && e.Config != config })
}
