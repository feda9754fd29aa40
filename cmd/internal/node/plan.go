package node

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// Plan is what has to be there after an installation. It is the same when it is there already.
type Plan struct {
	Layout Layout
	// Programs is the directory of the programs, Copies those that have to be copied there, in this order.
	Programs string
	Copies   []Copy
	// Files are written after the programs are there, in this order.
	Files   []File
	Handler Handler
	// Preview is a configuration like the one that the distribution generates from the files. It is nil if containerd reads the
	// files themselves.
	Preview []byte
	Notes   []string
}

// Copy is a program that is copied from one path to another.
type Copy struct{ From, To string }

// File is a file with its contents.
type File struct {
	Path    string
	Content []byte
	// Block is set if only the lines between our marks are ours.
	Block bool
	// Settings is set for the node's settings, which belong to no containerd.
	Settings bool
}

// SettingsPath is the file of the node's settings (docs/operate/settings.md).
const SettingsPath = "/etc/lifecycle-shim/config.toml"

// decide returns what has to be there.
func decide(f Facts, o Options) (Plan, *Failure) {
	plan := Plan{Layout: detect(f)}
	if plan.Layout == LayoutDocker {
		return plan, fail(StepConfig, "", "%s is generated whenever dockerd starts, and docker needs no configuration: the containerd is dockerd's own. Install the programs (make install, or the package), see docs/use/ctr-nerdctl-docker.md. Nothing is changed.", f.Config)
	}
	if !supported(f.Version) {
		return plan, fail(StepContainerd, "", "%s is version %s: only 1.6, 1.7 and 2.x are supported", f.Program, f.Version)
	}
	if o.RuntimePath && ignoresRuntimePath(f.Version) {
		return plan, fail(StepOptions, "", "containerd %s ignores runtime_path (1.6.21 does not): omit --runtime-path", f.Version)
	}
	if failure := plan.placePrograms(f, o); failure != nil {
		return plan, failure
	}
	plan.chooseHandler(f, o)
	if failure := plan.configure(f); failure != nil {
		return plan, failure
	}
	if f.Settings != nil {
		plan.Files = append(plan.Files, File{Path: SettingsPath, Content: f.Settings, Settings: true})
	}
	return plan, nil
}

// installed are the directories of a package or of `make install`. Programs there are used as they are.
var installed = []string{"/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"}

// placePrograms decides where the programs go.
func (p *Plan) placePrograms(f Facts, o Options) *Failure {
	bin := filepath.Clean(f.Bin)
	switch {
	case slices.Contains(installed, bin), o.Prefix != "" && bin == filepath.Join(o.Prefix, "bin"):
		p.Programs = bin
	case o.Prefix != "":
		p.Programs = filepath.Join(o.Prefix, "bin")
	default:
		place := slices.IndexFunc(f.Places, func(place Place) bool { return place.Writable && place.Exec && place.Trusted })
		if place < 0 {
			return fail(StepPrograms, "name a directory with --prefix", "cannot find a directory for the programs: %s", explain(f.Places))
		}
		p.Programs = f.Places[place].Dir
	}
	if len(f.Missing) > 0 {
		return fail(StepPrograms, "", "cannot find %s: name the directory of the programs with --bin. Nothing is changed.", filepath.Join(f.Bin, f.Missing[0]))
	}
	if p.Programs == bin {
		return nil
	}
	for _, name := range programs {
		p.Copies = append(p.Copies, Copy{filepath.Join(f.Bin, name), filepath.Join(p.Programs, name)})
	}
	return nil
}

func explain(places []Place) string {
	var reasons []string
	for _, place := range places {
		reason := "others than root can write there"
		switch {
		case !place.Writable:
			reason = "it cannot be written"
		case !place.Exec:
			reason = "programs there cannot be executed (noexec)"
		}
		reasons = append(reasons, place.Dir+": "+reason)
	}
	return strings.Join(reasons, ", ")
}

// chooseHandler decides on the handler's table, with the shim's path if containerd would not find the shim.
func (p *Plan) chooseHandler(f Facts, o Options) {
	shim := filepath.Join(p.Programs, shimName)
	if o.RuntimePath {
		driver := o.CgroupDriver
		if driver == "" {
			driver = f.CgroupDriver
		}
		if driver == "" {
			driver = cgroupfs
		}
		p.Handler = Handler{Type: runcType, Path: shim, Driver: driver}
		return
	}
	p.Handler = Handler{Type: ourType}
	if v := numbersOf(f.Version); v[0] == 2 && v[1] < 2 {
		p.note("with containerd %s, user namespaces and recursive read-only mounts need --runtime-path (docs/use/kubernetes.md)", f.Version)
	}
	switch {
	case f.PID == 0, slices.Contains(f.Path, p.Programs), filepath.Dir(f.Program) == p.Programs:
	case ignoresRuntimePath(f.Version):
		p.note("%s is not on the PATH of containerd %s, which is %s: containerd will not find the shim", p.Programs, f.Version, strings.Join(f.Path, ":"))
	default:
		p.Handler.Path = shim
	}
}

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// configure decides which files have the handler.
func (p *Plan) configure(f Facts) *Failure {
	text, err := withoutBlock(f.text())
	if err != nil {
		return fail(StepConfig, "", "cannot change %s: %s. Nothing is changed.", f.Config, err)
	}
	config, err := parse(text)
	if err != nil {
		return fail(StepConfig, "", "containerd cannot read %s: %s. Nothing is changed.", f.Config, err)
	}
	if config.disablesCRI() {
		return disablesCRI(f.Config)
	}
	if failure := checkForeign(f, config); failure != nil {
		return failure
	}
	switch p.Layout {
	case LayoutK3s, LayoutRKE2:
		return p.intoRancher(f, text, config)
	case LayoutK0s:
		p.intoK0s(f, config)
		return nil
	case LayoutMicroK8s:
		return p.intoTemplate(f, text, config, filepath.Join(filepath.Dir(f.Config), microK8sTemplate))
	}
	if old(f.Version) {
		return p.intoConfig(f, text, config)
	}
	return p.intoDropin(f, text, config)
}

func disablesCRI(config string) *Failure {
	return fail(StepConfig, "", "%s disables CRI, so containerd would ignore the runtime handler: remove CRI from disabled_plugins for Kubernetes. docker alone needs no configuration. Nothing is changed.", config)
}

// checkForeign refuses a handler of our name that we did not add.
func checkForeign(f Facts, config parsed) *Failure {
	dir := filepath.Dir(f.Config)
	with := map[string]bool{} // files that have the handler; true if it is ours
	for path, text := range f.Files {
		if path == f.Config || !config.importsFile(dir, path) && !inK0sDropins(path) {
			continue
		}
		imported, err := parse(text)
		if kind, has := imported.runtimes[handlerName]; err == nil && has {
			with[path] = isDropin(text) || filepath.Base(path) == dropinName && (kind == ourType || kind == runcType)
		}
	}
	if _, has := config.runtimes[handlerName]; has {
		with[f.Config] = false
	}
	ours := slices.Contains(slices.Collect(maps.Values(with)), true)
	for _, path := range slices.Sorted(maps.Keys(with)) {
		// k0s merges our drop-in into the other files.
		if !with[path] && (!ours || inK0sDropins(path) || !bytes.HasPrefix(f.text(), []byte(k0sHeader))) {
			return fail(StepConfig, "", "%s already has a runtime handler %q that this command did not add. Nothing is changed.", path, handlerName)
		}
	}
	return nil
}

func inK0sDropins(path string) bool { return filepath.Base(filepath.Dir(path)) == "containerd.d" }

// dropinName is the name of our file in a directory of drop-ins.
const dropinName = handlerName + ".toml"

// intoDropin is for containerd 2.x: a drop-in in a directory that the configuration imports. containerd's default configuration
// imports /etc/containerd/conf.d/*.toml since 2.2 (defaults.DefaultConfigIncludePattern), but only as a file that was written by
// `containerd config default`: a file without the key imports nothing.
func (p *Plan) intoDropin(f Facts, text []byte, config parsed) *Failure {
	dir := filepath.Dir(f.Config)
	dropin := filepath.Join(dir, "conf.d", dropinName)
	if len(config.imports) > 0 && !config.importsFile(dir, dropin) {
		other := importedDir(config, dir, f.Dirs)
		if other == "" {
			return fail(StepConfig, "", "%s imports only other files: add '%s/*.toml' to its imports. Nothing is changed.", f.Config, filepath.Dir(dropin))
		}
		dropin = filepath.Join(other, dropinName)
	}
	p.Files = append(p.Files, File{Path: dropin, Content: p.Handler.dropin(3)})
	if len(config.imports) > 0 {
		return nil
	}
	lines := fmt.Sprintf("imports = ['%s/*.toml']\n", filepath.Dir(dropin))
	if len(text) == 0 {
		lines = "version = 3\n" + lines
	}
	content := prepended(text, lines)
	if config.imports != nil { // an empty list
		replaced, ok := insteadOf(text, noImports, lines)
		if !ok {
			return fail(StepConfig, "", "%s imports nothing: add '%s/*.toml' to its imports. Nothing is changed.", f.Config, filepath.Dir(dropin))
		}
		content = replaced
	}
	p.Files = append(p.Files, File{Path: f.Config, Content: content, Block: true})
	return nil
}

// importedDir returns an existing directory all of whose .toml files are imported, or "".
func importedDir(config parsed, dir string, exists map[string]bool) string {
	for _, pattern := range config.imports {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(dir, pattern)
		}
		if in := filepath.Dir(pattern); filepath.Base(pattern) == "*.toml" && exists[in] {
			return in
		}
	}
	return ""
}

// intoConfig is for containerd 1.x, in which an imported file would replace all settings of CRI: a block at the end.
func (p *Plan) intoConfig(f Facts, text []byte, config parsed) *Failure {
	if len(bytes.TrimSpace(text)) > 0 && config.version != 2 {
		return fail(StepConfig, "", "%s is not a configuration of version 2. Nothing is changed.", f.Config)
	}
	lines := p.Handler.tables(2)
	if len(text) == 0 {
		lines = "version = 2\n" + lines
	}
	if _, has := config.runtimes[config.defaultRuntime]; !has {
		if config.defaultRuntime != "runc" {
			return fail(StepConfig, "", "containerd's default runtime %s is not configured in %s. Nothing is changed.", config.defaultRuntime, f.Config)
		}
		lines += runcTable(2)
	}
	p.Files = append(p.Files, File{Path: f.Config, Content: appended(text, lines), Block: true})
	return nil
}
