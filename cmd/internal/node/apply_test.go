package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A test that kills an installation runs it in a process of its own, which is this program with these variables.
const (
	childDir  = "NODE_TEST_DIR"
	childDoes = "NODE_TEST_DOES"
	childStep = "NODE_TEST_STEP"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

// child does an installation or a removal, and kills itself before a step.
func child(dir string) int {
	stop, err := strconv.Atoi(os.Getenv(childStep))
	if err != nil {
		return 2
	}
	n := 0
	step := func(string) {
		if n++; n == stop {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	if failure := do(dir, os.Getenv(childDoes), step); failure != nil {
		fmt.Fprintln(os.Stderr, failure)
		return 1
	}
	return 0
}

// do performs what a test names: install, upgrade or uninstall.
func do(dir, what string, step func(string)) *Failure {
	config := filepath.Join(dir, "etc/config.toml")
	if what == "uninstall" {
		j, failure := loadJournal(filepath.Join(dir, "lib/lifecycle-shim"))
		if failure != nil {
			return failure
		}
		r := removal{config: config, journal: j, legacy: filepath.Join(dir, "legacy"), step: step}
		return r.apply()
	}
	c := newChange(dir, what == "upgrade")
	c.step = step
	if failure := c.apply(); failure != nil {
		return failure
	}
	return c.finish()
}

// newChange is an installation below dir. An upgrade has other programs, another drop-in, and no settings.
func newChange(dir string, upgrade bool) *change {
	config := filepath.Join(dir, "etc/config.toml")
	own, _ := os.ReadFile(config)
	own, _ = withoutBlock(own)
	src, dropin := "src", "etc/conf.d/lifecycle.toml"
	if upgrade {
		src, dropin = "src2", "etc/other.d/deep/lifecycle.toml"
	}
	plan := Plan{Programs: filepath.Join(dir, "made/bin"), Handler: Handler{Type: ourType}}
	for _, name := range programs {
		plan.Copies = append(plan.Copies, Copy{filepath.Join(dir, src, name), filepath.Join(dir, "made/bin", name)})
	}
	plan.Copies = append(plan.Copies, Copy{filepath.Join(dir, src, shimName), filepath.Join(dir, "bin", shimName)},
		Copy{filepath.Join(dir, src, ctlName), filepath.Join(dir, "bin", ctlName)})
	plan.Files = []File{
		{Path: filepath.Join(dir, dropin), Content: plan.Handler.dropin(3)},
		{Path: config, Content: prepended(own, "imports = ['x']\n"), Block: true},
		{Path: filepath.Join(dir, "etc/template"), Content: []byte(block("x = 1")), Block: true},
	}
	if !upgrade {
		plan.Files = append(plan.Files, File{Path: filepath.Join(dir, "etc/settings"), Content: []byte("settings\n")})
	}
	return &change{
		plan: plan, config: config, state: filepath.Join(dir, "lib/lifecycle-shim"), legacy: filepath.Join(dir, "legacy"),
		step: func(string) {}, verify: func() *Failure { return nil }, checkSettings: func(string) *Failure { return nil },
	}
}

// newNode makes the files of a node, with modes and owners of their own.
func newNode(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root owns a node")
	}
	dir := t.TempDir()
	write := func(name, text string, mode fs.FileMode, uid int) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600), os.Chown(path, uid, uid), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for i, src := range []string{"src", "src2"} {
		for _, name := range programs {
			write(filepath.Join(src, name), fmt.Sprintf("%s %d", name, i), 0o755, 0)
		}
	}
	write("etc/config.toml", "version = 3\n# no newline at the end", 0o640, 7)
	write("etc/settings", "of the administrator\n", 0o600, 0)
	write("lib/other/file", "", 0o644, 0)
	write("bin/"+shimName, "an older one", 0o700, 3)
	if err := os.Symlink("elsewhere", filepath.Join(dir, "bin", ctlName)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// snapshot describes every file below a directory: what it is, its mode, its owner and its contents.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var found unix.Stat_t
		if err := unix.Lstat(path, &found); err != nil {
			return err
		}
		text := ""
		switch {
		case entry.Type()&fs.ModeSymlink != 0:
			text, err = os.Readlink(path)
		case entry.Type().IsRegular():
			var content []byte
			content, err = os.ReadFile(path)
			text = string(content)
		}
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%s %o %d:%d %q\n", name, found.Mode, found.Uid, found.Gid, text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func mustDo(t *testing.T, dir, what string) {
	t.Helper()
	if failure := do(dir, what, func(string) {}); failure != nil {
		t.Fatalf("%s: %s", what, failure)
	}
}

// TestInstallTwice: the second time changes nothing, and the removal leaves nothing.
func TestInstallTwice(t *testing.T) {
	dir := newNode(t)
	before := snapshot(t, dir)
	mustDo(t, dir, "install")
	once := snapshot(t, dir)
	c := newChange(dir, false)
	if failure := c.apply(); failure != nil || c.changed {
		t.Errorf("the second time: %v, changed %t", failure, c.changed)
	}
	mustDo(t, dir, "install")
	if twice := snapshot(t, dir); twice != once {
		t.Errorf("after the second time\n%s\nwant\n%s", twice, once)
	}
	mustDo(t, dir, "uninstall")
	mustDo(t, dir, "uninstall")
	if after := snapshot(t, dir); after != before {
		t.Errorf("after the removal\n%s\nwant\n%s", after, before)
	}
}

// TestKilled kills an installation, an upgrade and a removal before each of their steps. The next installation completes what was
// begun, and the next removal leaves the node as it was.
func TestKilled(t *testing.T) {
	want := map[string]string{}
	for _, what := range []string{"install", "upgrade"} {
		clean := newNode(t)
		mustDo(t, clean, what)
		want[what] = withoutJournal(t, clean)
	}
	for _, c := range []struct{ first, killed, then string }{
		{"", "install", "install"},
		{"", "install", "upgrade"},
		{"install", "upgrade", "upgrade"},
		{"install", "upgrade", "install"},
		{"install", "uninstall", "install"},
		{"upgrade", "uninstall", "upgrade"},
		{"", "install", "uninstall"},
		{"install", "upgrade", "uninstall"},
		{"install", "uninstall", "uninstall"},
	} {
		t.Run(c.first+"-"+c.killed+"-"+c.then, func(t *testing.T) {
			t.Parallel()
			steps := 0
			for killed := true; killed; steps++ {
				killed = tryKilled(t, c.first, c.killed, c.then, steps+1, want)
			}
			if steps < 8 {
				t.Errorf("it was killed before %d steps only", steps-1)
			}
		})
	}
}

// tryKilled kills before one step. It returns false if there are fewer steps.
func tryKilled(t *testing.T, first, kill, then string, step int, want map[string]string) bool {
	t.Helper()
	dir := newNode(t)
	before := snapshot(t, dir)
	if first != "" {
		mustDo(t, dir, first)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self)
	command.Env = append(os.Environ(), childDir+"="+dir, childDoes+"="+kill, childStep+"="+strconv.Itoa(step))
	out, err := command.CombinedOutput()
	var exit *exec.ExitError
	killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if err != nil && !killed {
		t.Fatalf("step %d: %v\n%s", step, err, out)
	}
	mustDo(t, dir, then)
	if then != "uninstall" {
		wantInstalled(t, dir, want[then])
		mustDo(t, dir, "uninstall")
	}
	if after := snapshot(t, dir); after != before {
		t.Errorf("killed before step %d: after the removal\n%s\nwant\n%s", step, after, before)
	}
	return killed
}

// wantInstalled compares the node with one on which nothing was interrupted, except for the journal, which may remember more.
func wantInstalled(t *testing.T, dir, want string) {
	t.Helper()
	if got := withoutJournal(t, dir); got != want {
		t.Errorf("the node is\n%s\nwant\n%s", got, want)
	}
	if all := snapshot(t, dir); strings.Contains(all, newSuffix) || strings.Contains(all, oldSuffix) {
		t.Errorf("files are left: %s", all)
	}
}

func withoutJournal(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(snapshot(t, dir)) {
		if !strings.HasPrefix(line, "lib/lifecycle-shim/") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestFailureChangesNothing: containerd refuses the result, the settings are not valid, a directory cannot be written.
func TestFailureChangesNothing(t *testing.T) {
	refuse := fail(StepVerify, "", "refused")
	for name, edit := range map[string]func(dir string, c *change){
		"verify": func(_ string, c *change) { c.verify = func() *Failure { return refuse } },
		"settings": func(_ string, c *change) {
			c.plan.Files[0].Settings, c.checkSettings = true, func(string) *Failure { return refuse }
		},
		"programs": func(dir string, c *change) { c.plan.Copies[2].To = filepath.Join(dir, "etc/config.toml/bin/x") },
		"files":    func(dir string, c *change) { c.plan.Files[2].Path = filepath.Join(dir, "etc/config.toml/x") },
		"source":   func(dir string, c *change) { c.plan.Copies[2].From = filepath.Join(dir, "none") },
		"journal":  func(dir string, c *change) { c.state = filepath.Join(dir, "etc/config.toml/state") },
		"special":  func(dir string, c *change) { c.plan.Files[2].Path = filepath.Join(dir, "etc") },
	} {
		for _, first := range []string{"", "install", "upgrade"} {
			t.Run(name+"-"+first, func(t *testing.T) {
				dir := newNode(t)
				if first != "" {
					mustDo(t, dir, first)
				}
				before := snapshot(t, dir)
				c := newChange(dir, first == "install")
				edit(dir, c)
				if failure := c.apply(); failure == nil {
					t.Fatal("it succeeds")
				}
				if after := snapshot(t, dir); after != before {
					t.Errorf("the node is\n%s\nwant\n%s", after, before)
				}
			})
		}
	}
}

// TestDiskFull: the programs, the drop-in or the journal do not fit.
func TestDiskFull(t *testing.T) {
	for _, where := range []string{"made", "etc", "lib"} {
		t.Run(where, func(t *testing.T) {
			dir := newNode(t)
			full := filepath.Join(dir, where)
			keep, err := os.ReadFile(filepath.Join(dir, "etc/config.toml"))
			if err := errors.Join(err, os.MkdirAll(full, 0o755), unix.Mount("none", full, "tmpfs", 0, "size=64k,mode=755")); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(full, unix.MNT_DETACH) })
			if where == "etc" {
				if err := os.WriteFile(filepath.Join(full, "config.toml"), keep, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			fillUp(t, full)
			before := snapshot(t, dir)
			failure := do(dir, "install", func(string) {})
			if failure == nil || !strings.Contains(failure.Message, "no space left") || !strings.Contains(failure.Message, nothing) {
				t.Errorf("it reports %v", failure)
			}
			if after := snapshot(t, dir); after != before {
				t.Errorf("the node is\n%.3000s\nwant\n%.3000s", after, before)
			}
			if err := os.Remove(filepath.Join(full, "filler")); err != nil {
				t.Fatal(err)
			}
			mustDo(t, dir, "install") // once there is space again
		})
	}
}

// fillUp writes a file until the file system is full.
func fillUp(t *testing.T, dir string) {
	t.Helper()
	file, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReadOnly: nothing is changed if the configuration's file system is read-only.
func TestReadOnly(t *testing.T) {
	dir := newNode(t)
	etc := filepath.Join(dir, "etc")
	if err := errors.Join(unix.Mount(etc, etc, "", unix.MS_BIND, ""), unix.Mount("", etc, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(etc, unix.MNT_DETACH) })
	before := snapshot(t, dir)
	failure := do(dir, "install", func(string) {})
	if failure == nil || !strings.Contains(failure.Message, "read-only file system") || !strings.Contains(failure.Message, nothing) {
		t.Errorf("it reports %v", failure)
	}
	if after := snapshot(t, dir); after != before {
		t.Errorf("the node is\n%s\nwant\n%s", after, before)
	}
}
