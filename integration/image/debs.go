package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// roots are the packages the image is made of; the libraries they need are found from their own
// Depends fields, because the names differ between Debian's releases (libssl3, libssl3t64).
var roots = []string{"nginx", "nginx-common", "busybox-static"}

// fetchTimeout bounds one call of apt-get: 7 MB in all, seconds on most lines.
const fetchTimeout = 3 * time.Minute

// partial begins the name of a folder that a download is under way in.
const partial = "partial-"

// deb is one downloaded package.
type deb struct {
	name, version, path string
	depends             []string // libraries only
}

// fetch returns the packages in dir, downloading those that are not there.
func fetch(ctx context.Context, dir string, progress func(string)) ([]deb, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	removeLeftovers(dir)
	found := map[string]deb{}
	for wanted := roots; len(wanted) > 0; wanted = missingDepends(found) {
		if err := download(ctx, dir, wanted, progress); err != nil {
			return nil, err
		}
		for _, name := range wanted {
			d, err := readDeb(ctx, dir, name)
			if err != nil {
				return nil, err
			}
			found[name] = d
		}
	}
	debs := make([]deb, 0, len(found))
	for _, d := range found {
		debs = append(debs, d)
	}
	slices.SortFunc(debs, func(a, b deb) int { return cmp.Compare(a.name, b.name) })
	return debs, nil
}

func missingDepends(found map[string]deb) []string {
	var missing []string
	for _, d := range found {
		for _, name := range d.depends {
			if _, ok := found[name]; !ok && !slices.Contains(missing, name) {
				missing = append(missing, name)
			}
		}
	}
	slices.Sort(missing)
	return missing
}

func readDeb(ctx context.Context, dir, name string) (deb, error) {
	path, ok := debFile(dir, name)
	if !ok {
		return deb{}, fmt.Errorf("apt-get brought no %s_*.deb into %s", name, dir)
	}
	out, err := output(exec.CommandContext(ctx, "dpkg-deb", "--show", "--showformat=${Version}\n${Depends}", path))
	if err != nil {
		return deb{}, fmt.Errorf("read %s (remove it to have it downloaded again): %w", path, err)
	}
	version, depends, _ := strings.Cut(out, "\n")
	return deb{name: name, version: version, path: path, depends: libraries(depends)}, nil
}

// debFile finds a package's file of any version; of several the last by name.
func debFile(dir, name string) (string, bool) {
	files, _ := filepath.Glob(filepath.Join(dir, name+"_*.deb")) // the pattern is well-formed
	if len(files) == 0 {
		return "", false
	}
	return slices.Max(files), true
}

// libraries picks the shared libraries out of a Depends field: "libc6 (>= 2.34), a | b, iproute2".
func libraries(depends string) []string {
	var libs []string
	for entry := range strings.SplitSeq(depends, ",") {
		words := strings.FieldsFunc(entry, func(r rune) bool { return strings.ContainsRune(" (|:", r) })
		if len(words) == 0 {
			continue
		}
		if name := words[0]; strings.HasPrefix(name, "lib") || name == "zlib1g" {
			libs = append(libs, name)
		}
	}
	return libs
}

// download brings the packages that are not in dir yet. It asks the host's apt, and if that does
// not know them (an old or empty package list), once more with our own lists: the host's are
// never touched.
func download(ctx context.Context, dir string, names []string, progress func(string)) error {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, ok := debFile(dir, name)
		return ok
	})
	if len(names) == 0 {
		return nil
	}
	progress("downloading " + strings.Join(names, ", "))
	first := aptDownload(ctx, dir, names)
	if first == nil {
		return nil
	}
	progress("the host's package lists do not serve; fetching fresh ones into the cache")
	lists := aptLists(filepath.Join(filepath.Dir(dir), "apt"))
	if err := lists.update(ctx); err != nil {
		return tellHowToFetch(dir, names, errors.Join(first, err))
	}
	if err := aptDownload(ctx, dir, names, lists.options()...); err != nil {
		return tellHowToFetch(dir, names, errors.Join(first, err))
	}
	return nil
}

func tellHowToFetch(dir string, names []string, err error) error {
	return fmt.Errorf("get Debian packages %s: %w\n(the first build needs a Debian mirror that apt-get reaches; "+
		"or put the .deb files into %s by hand)", strings.Join(names, " "), err, dir)
}

// aptDownload fetches into its own folder and then moves: dir only ever holds whole packages.
// apt checks sizes and signed hashes itself.
func aptDownload(ctx context.Context, dir string, names []string, options ...string) error {
	tmp, err := os.MkdirTemp(dir, partial)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	args := append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, options...)
	if err := apt(ctx, tmp, append(args, names...)); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Rename(f, filepath.Join(dir, filepath.Base(f))); err != nil {
			return err
		}
	}
	return nil
}

// removeLeftovers removes what a download that was killed has left; the lock says that none is running.
func removeLeftovers(dir string) {
	leftovers, _ := filepath.Glob(filepath.Join(dir, partial+"*"))
	for _, l := range leftovers {
		_ = os.RemoveAll(l) // in the way of nothing
	}
}

// aptLists is a folder with our own package lists.
type aptLists string

func (l aptLists) options() []string {
	return []string{"-o", "Dir::State::lists=" + string(l) + "/lists", "-o", "Dir::Cache=" + string(l) + "/cache"}
}

func (l aptLists) update(ctx context.Context) error {
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(string(l), dir), 0o755); err != nil {
			return err
		}
	}
	return apt(ctx, string(l), append([]string{"-q", "-o", "APT::Sandbox::User=root", "update"}, l.options()...))
}

func apt(ctx context.Context, dir string, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	_, err := output(cmd)
	return err
}

// output runs a command; its error carries what the command said.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a ^C is for us, and reaches it through its context
	cmd.WaitDelay = time.Second                           // a grandchild may keep the pipes open after a kill
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func versionOf(debs []deb, name string) string {
	for _, d := range debs {
		if d.name == name {
			return d.version
		}
	}
	return ""
}
