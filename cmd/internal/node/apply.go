package node

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// change applies a plan. Its steps can be interrupted anywhere: the journal says what was there before.
type change struct {
	plan   Plan
	config string // of the containerd
	state  string // the journal's directory
	legacy string // where the installer of earlier builds left its mark
	// step is called before each step. Tests stop there.
	step func(string)
	// verify asks containerd, checkSettings the installed shim.
	verify        func() *Failure
	checkSettings func(shim string) *Failure

	journal *journal
	fresh   bool // there was no journal
	wanted  []target
	// staged and replaced are what back undoes.
	staged, replaced []string
	changed          bool
}

// target is one file that has to be there.
type target struct {
	entry
	content []byte
	from    string // a program's path
	differs bool
}

// apply brings the plan's files into place. On failure everything is as before.
func (c *change) apply() *Failure {
	var failure *Failure
	if c.journal, failure = loadJournal(c.state); failure != nil {
		return failure
	}
	c.fresh = c.journal.empty()
	for _, e := range c.journal.Entries {
		tidy(e.Path)
	}
	if err := c.compare(); err != nil {
		return fail(StepWrite, "", "cannot inspect what is on the node: %s. Nothing is changed.", err)
	}
	if !c.changed {
		return c.verify()
	}
	if err := c.write(); err != nil {
		return c.back(asFailure(StepWrite, err))
	}
	c.step("verify")
	if failure := c.verify(); failure != nil {
		return c.back(failure)
	}
	if err := c.writePrograms(); err != nil {
		return c.back(asFailure(StepWrite, err))
	}
	if c.plan.settings() {
		if failure := c.checkSettings(filepath.Join(c.plan.Programs, shimName)); failure != nil {
			return c.back(failure)
		}
	}
	return nil
}

// finish records that the installation is complete.
func (c *change) finish() *Failure {
	for _, path := range c.replaced {
		_ = os.Remove(path + oldSuffix)
	}
	tidy(filepath.Join(c.state, journalName))
	if c.journal.Phase == phaseInstalled && !c.changed {
		return nil
	}
	c.step("record the end")
	c.removeDirs()
	c.journal.Phase = phaseInstalled
	for i := range c.journal.Entries {
		c.journal.Entries[i].Ours = nil
	}
	if err := c.journal.save(); err != nil {
		return fail(StepJournal, "run this again", "cannot record that the installation is complete: %s", err)
	}
	c.journal.dropBackups()
	return nil
}

// removeDirs removes directories that an earlier or interrupted installation has made, and that are not needed any more.
func (c *change) removeDirs() {
	for _, e := range slices.Backward(slices.Clone(c.journal.Entries)) {
		needed := func(other entry) bool { return other.Path != e.Path && below(other.Path, e.Path) }
		if !e.Dir || below(c.state, e.Path) || slices.ContainsFunc(c.journal.Entries, needed) {
			continue
		}
		if os.Remove(e.Path) == nil {
			c.journal.Entries = slices.DeleteFunc(c.journal.Entries, func(other entry) bool { return other.Path == e.Path })
		}
	}
}

// below reports whether a path is a directory, or below it.
func below(path, dir string) bool {
	relative, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(relative)
}

func (p Plan) settings() bool {
	return slices.ContainsFunc(p.Files, func(f File) bool { return f.Settings })
}

// compare fills wanted, and sets changed if anything on the node differs from it.
func (c *change) compare() error {
	for _, program := range c.plan.Copies {
		sum, err := hashOf(program.From)
		if err != nil {
			return err
		}
		c.wanted = append(c.wanted, target{from: program.From, entry: entry{Path: program.To, After: &State{Mode: 0o755, SHA256: sum}}})
	}
	for _, file := range c.plan.Files {
		e := entry{Path: file.Path, Config: c.config, Block: file.Block, After: &State{Mode: 0o644, SHA256: hashOfText(file.Content)}}
		if file.Settings {
			e.Config = ""
		}
		e.Dropin = !file.Block && !file.Settings
		c.wanted = append(c.wanted, target{content: file.Content, entry: e})
	}
	for i := range c.wanted {
		now, err := stateOf(c.wanted[i].Path)
		if err != nil {
			return err
		}
		known := c.journal.find(c.wanted[i].Path)
		c.wanted[i].differs = !same(now, c.wanted[i].After)
		c.changed = c.changed || c.wanted[i].differs || known == nil || !same(known.After, c.wanted[i].After)
		if now != nil && now.Link == "" && c.wanted[i].from == "" { // a configuration keeps its mode and owner
			sum := c.wanted[i].After.SHA256
			*c.wanted[i].After = *now
			c.wanted[i].After.SHA256 = sum
		}
	}
	c.changed = c.changed || c.journal.Phase != phaseInstalled || len(c.stale()) > 0
	return nil
}

// stale returns the paths that an earlier installation has written for the same containerd, and that this one does not need.
// Programs stay until the end: a running pod may need them.
func (c *change) stale() []string {
	var paths []string
	for _, e := range c.journal.Entries {
		mine := e.Config == c.config || e.Path == resolve(SettingsPath)
		if mine && !e.Dir && !slices.ContainsFunc(c.wanted, func(t target) bool { return t.Path == e.Path }) {
			paths = append(paths, e.Path)
		}
	}
	return paths
}

// write records what is there, stages the programs, and replaces the other files.
func (c *change) write() error {
	if err := c.record(); err != nil {
		return asFailure(StepJournal, err)
	}
	for _, t := range c.wanted {
		if t.from == "" || !t.differs {
			continue
		}
		c.step("stage " + t.Path)
		if err := c.stageProgram(t); err != nil {
			return err
		}
	}
	for _, t := range c.wanted {
		if t.from != "" || !t.differs {
			continue
		}
		c.step("stage " + t.Path)
		if err := c.replace(t); err != nil {
			return err
		}
	}
	for _, path := range c.stale() {
		c.step("take back " + path)
		if err := c.takeBack(path); err != nil {
			return err
		}
	}
	return nil
}

func (c *change) stageProgram(t target) error {
	if err := makeDirs(filepath.Dir(t.Path)); err != nil {
		return err
	}
	from, err := os.Open(t.from)
	if err != nil {
		return err
	}
	defer from.Close()
	c.staged = append(c.staged, t.Path)
	return stage(t.Path, from, *t.After)
}

func (c *change) replace(t target) error {
	if err := makeDirs(filepath.Dir(t.Path)); err != nil {
		return err
	}
	if err := keepOld(t.Path); err != nil {
		return err
	}
	c.staged = append(c.staged, t.Path)
	if err := stage(t.Path, bytes.NewReader(t.content), *t.After); err != nil {
		return err
	}
	c.step("rename " + t.Path)
	c.replaced = append(c.replaced, t.Path)
	return promote(t.Path)
}

// takeBack undoes a file of an earlier installation, so that back can restore it.
func (c *change) takeBack(path string) error {
	if err := keepOld(path); err != nil {
		return err
	}
	c.step("revert " + path)
	c.replaced = append(c.replaced, path)
	e := *c.journal.find(path)
	if _, err := c.journal.revert(e, true); err != nil {
		return err
	}
	c.journal.Entries = slices.DeleteFunc(c.journal.Entries, func(e entry) bool { return e.Path == path })
	return nil
}

// writePrograms renames the staged programs to their names.
func (c *change) writePrograms() error {
	for _, t := range c.wanted {
		if t.from == "" || !t.differs {
			continue
		}
		c.step("rename " + t.Path)
		if err := keepOld(t.Path); err != nil {
			return err
		}
		c.replaced = append(c.replaced, t.Path)
		if err := promote(t.Path); err != nil {
			return err
		}
	}
	return nil
}

// back puts everything back that this run has changed, and returns the failure.
func (c *change) back(failure *Failure) *Failure {
	c.step("put back")
	var errs []error
	for _, path := range slices.Backward(c.replaced) {
		errs = append(errs, putBack(path))
	}
	for _, path := range c.staged {
		tidy(path)
	}
	if c.fresh {
		errs = append(errs, c.journal.remove())
	} else {
		errs = append(errs, c.restoreJournal())
	}
	if err := errors.Join(errs...); err != nil {
		failure.Message += " Putting everything back failed, so run this again: " + err.Error()
		return failure
	}
	if failure.Cure == "" && !bytes.HasSuffix([]byte(failure.Message), []byte(nothing)) {
		failure.Message += ". " + nothing
	}
	return failure
}

// restoreJournal puts the journal of the earlier installation back, and removes what only this one needed.
func (c *change) restoreJournal() error {
	path := filepath.Join(c.state, journalName)
	if _, err := os.Lstat(path + oldSuffix); err != nil {
		return nil // it was not replaced
	}
	if err := putBack(path); err != nil {
		return err
	}
	old, failure := loadJournal(c.state)
	if failure != nil {
		return failure
	}
	for _, e := range slices.Backward(c.journal.Entries) {
		if e.Dir && old.find(e.Path) == nil {
			_ = os.Remove(e.Path) // fails if it has other files, which stay
		}
	}
	old.dropBackups()
	return nil
}

// nothing ends the message of a failure that has changed nothing.
const nothing = "Nothing is changed."

// makeDirs makes missing directories that all can read.
func makeDirs(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makeDirs(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(dir, 0o755) // for any umask
}

// missingDirs returns the directories that makeDirs would make, the outermost first.
func missingDirs(dir string) []string {
	var missing []string
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); err == nil || dir == filepath.Dir(dir) {
			slices.Reverse(missing)
			return missing
		}
		missing = append(missing, dir)
	}
}
