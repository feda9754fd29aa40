package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/doctor"
)

// Install puts the programs and the runtime handler on this node. Doing it again changes nothing.
func Install(ctx context.Context, o Options) Result {
	r := Result{Layout: LayoutUnknown, Files: []string{}, Restart: RestartNotNeeded}
	r.Failure = r.install(ctx, o)
	return r
}

func (r *Result) install(ctx context.Context, o Options) *Failure {
	c, failure := prepare(ctx, o, r)
	if failure != nil {
		return failure
	}
	unlock, waited, failure := lock(c.config, lockWithin)
	if failure != nil {
		return failure
	}
	defer unlock()
	if waited {
		if c, failure = prepare(ctx, o, r); failure != nil {
			return failure
		}
	}
	defer restoreMask(unix.Umask(0o022))
	if failure := checkRestart(ctx, o, r.Containerd.PID, c.plan.Handler); failure != nil {
		return failure
	}
	if failure := c.apply(); failure != nil {
		return failure
	}
	r.Changed = c.changed
	for _, e := range c.journal.Entries {
		if !e.Dir {
			r.Files = append(r.Files, e.Path)
		}
	}
	if failure := r.restartFor(ctx, o, c); failure != nil {
		return failure
	}
	return c.finish()
}

func restoreMask(mask int) { unix.Umask(mask) }

// prepare finds the containerd, and decides what has to be there. It changes nothing.
func prepare(ctx context.Context, o Options, r *Result) (*change, *Failure) {
	if failure := checkOptions(o); failure != nil {
		return nil, failure
	}
	chosen, failure := find(o)
	if failure != nil {
		return nil, failure
	}
	r.describe(ctx, chosen)
	facts, failure := gather(ctx, chosen, o)
	if r.Containerd.Version = facts.Version; failure != nil {
		return nil, failure
	}
	r.Containerd.Unit = unitOf(facts.Cgroup)
	plan, failure := decide(facts, o)
	r.Layout, r.Programs = plan.Layout, plan.Programs
	if failure != nil {
		return nil, failure
	}
	r.Notes = plan.Notes
	if chosen.pid == 0 {
		r.Notes = append(r.Notes, "no running containerd reads that file")
	}
	if failure := plan.resolve(); failure != nil {
		return nil, failure
	}
	server := containerd{facts.Program}
	return &change{
		plan: plan, config: facts.Config, state: stateDir(o), legacy: legacyDir(o),
		step: func(string) {},
		verify: func() *Failure {
			if plan.Preview != nil {
				return server.verifyPreview(ctx, plan.Preview, plan.Handler)
			}
			return server.verify(ctx, facts.Config, plan.Handler)
		},
		checkSettings: func(shim string) *Failure {
			if err := doctor.CheckSettings(ctx, shim); err != nil {
				return fail(StepSettings, "", "the settings are not valid: %s", err)
			}
			return nil
		},
	}, nil
}

// describe fills what is known of the chosen containerd.
func (r *Result) describe(ctx context.Context, c choice) {
	r.Containerd.PID, r.Containerd.Config = c.pid, c.config
	if c.pid == 0 {
		return
	}
	if live, err := doctor.FindLive(ctx, c.pid); err == nil { // one that does not answer is configured too
		r.Containerd.Address, r.Containerd.Version = live.Address, live.Version
	}
}

// resolve replaces links in the plan's paths, and refuses places that others than root can change.
func (p *Plan) resolve() *Failure {
	for i := range p.Files {
		path := resolve(p.Files[i].Path)
		if err := trust.Place(path); err != nil {
			return refuseShared(path, err)
		}
		p.Files[i].Path = path
	}
	for i := range p.Copies {
		to := p.Copies[i].To
		p.Copies[i].To = filepath.Join(resolve(filepath.Dir(to)), filepath.Base(to))
	}
	return nil
}

// Uninstall leaves the node as it was before Install.
func Uninstall(ctx context.Context, o Options) Result {
	r := Result{Layout: LayoutUnknown, Files: []string{}, Restart: RestartNotNeeded}
	r.Failure = r.uninstall(ctx, o)
	return r
}

func (r *Result) uninstall(ctx context.Context, o Options) *Failure {
	if failure := checkOptions(o); failure != nil {
		return failure
	}
	j, failure := loadJournal(stateDir(o))
	if failure != nil {
		return failure
	}
	chosen, failure := findAgain(o, j)
	if failure != nil {
		return failure
	}
	unlock, _, failure := lock(chosen.config, lockWithin)
	if failure != nil {
		return failure
	}
	defer unlock()
	if j, failure = loadJournal(stateDir(o)); failure != nil { // another installation may have ended meanwhile
		return failure
	}
	r.describe(ctx, chosen)
	facts := Facts{PID: chosen.pid, Config: chosen.config}
	if failure := facts.readFiles("/"); failure != nil {
		return failure
	}
	facts.readSystem("/")
	r.Layout = detect(facts)
	if chosen.pid != 0 {
		cgroup, _ := os.ReadFile(filepath.Join("/proc", itoa(chosen.pid), "cgroup")) // empty if it has exited
		r.Containerd.Unit = unitOf(string(cgroup))
	}
	if j.empty() {
		j.addLegacy(facts, legacyDir(o))
	}
	removal := removal{config: chosen.config, journal: j, legacy: legacyDir(o), step: func(string) {}}
	if failure := r.checkRemoval(&removal, facts); failure != nil {
		return failure
	}
	defer restoreMask(unix.Umask(0o022))
	failure = removal.apply()
	r.Notes = append(r.Notes, removal.notes...)
	if failure != nil {
		return failure
	}
	return r.restartAfterRemoval(ctx, o)
}

// findAgain finds the containerd that was configured: the journal knows it, if the options and the running ones do not.
func findAgain(o Options, j *journal) (choice, *Failure) {
	configs := map[string]bool{}
	only := ""
	for _, e := range j.Entries {
		if e.Config != "" {
			configs[e.Config], only = true, e.Config
		}
	}
	if len(configs) == 1 && o.PID == 0 && o.Config == "" && o.Containerd == "" {
		o.Config = only
		if chosen, failure := find(o); failure == nil {
			return chosen, nil
		}
		return choice{config: only}, nil // it does not run any more
	}
	return find(o)
}

// checkRemoval refuses while pods need the shim, and if others could change what is written.
func (r *Result) checkRemoval(removal *removal, facts Facts) *Failure {
	mine := removal.mine()
	paths := []string{facts.Config, filepath.Join(filepath.Dir(facts.Config), "conf.d", dropinName)}
	for _, e := range mine {
		if e.Dir {
			continue
		}
		r.Files = append(r.Files, e.Path)
		if filepath.Base(e.Path) == shimName {
			r.Programs = filepath.Dir(e.Path)
		}
		if e.Config != "" {
			paths = append(paths, e.Path)
		}
	}
	for _, path := range paths {
		if err := trust.Place(resolve(path)); err != nil {
			return refuseShared(resolve(path), err)
		}
	}
	r.Changed = len(r.Files) > 0
	if !r.Changed {
		r.Notes = append(r.Notes, "neither "+facts.Config+" nor "+paths[1]+" mentions lifecycle-shim; if another file does, name it with --config")
	}
	shims, err := trust.Find(func(name string) bool { return name == shimName })
	if err != nil {
		return fail(StepInUse, "", "cannot list the running shims: %s", err)
	}
	for _, shim := range shims {
		if slices.Contains(r.Files, resolve(shim.Executable)) || slices.Contains(r.Files, shim.Executable) {
			return fail(StepInUse, "", "cannot remove the shim while pods use it, because they need it to stop: remove them first (lifecyclectl status, crictl pods)")
		}
	}
	return nil
}

// addLegacy adds what the installer of earlier builds has left, which kept no journal.
func (j *journal) addLegacy(f Facts, legacy string) {
	for path, text := range f.Files {
		switch {
		case hasBlock(text):
			j.Entries = append(j.Entries, entry{Path: path, Config: f.Config, Block: true})
		case filepath.Base(path) == dropinName && isDropin(text):
			j.Entries = append(j.Entries, entry{Path: filepath.Dir(path), Config: f.Config, Dir: true},
				entry{Path: path, Config: f.Config, Dropin: true, After: &State{SHA256: hashOfText(text)}})
		}
	}
	if _, err := os.Lstat(filepath.Join(legacy, legacyMark)); err != nil {
		return
	}
	for _, name := range programs {
		path := filepath.Join(filepath.Dir(filepath.Dir(legacy)), "bin", name)
		if state, err := stateOf(path); err == nil && state != nil {
			j.Entries = append(j.Entries, entry{Path: path, After: state})
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue // a directory of that name is not ours
		}
	}
}
