package debian

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/archive"
	"github.com/lifecycle-shim/lifecycle-shim/integration/image"
	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

const (
	dist = "../../dist"
	name = "lifecycle-shim"
)

// shimName is what the kernel shows of containerd-shim-lifecycle-v2: 15 characters.
const shimName = "containerd-shim"

// deb is the package for an architecture, as `make package` has made it.
func deb(t *testing.T, arch string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dist, name+"_*_"+arch+".deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%d packages for %s in dist/: run `make package`", len(found), arch)
	}
	return found[0]
}

func native(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(run(t, limit, "dpkg", "--print-architecture"))
}

// block is the first block of shell commands in a page that has the text.
func block(t *testing.T, page, text string) string {
	t.Helper()
	for _, code := range docpage.Blocks(docpage.Read(t, page), "sh") {
		if strings.Contains(code, text) {
			return code
		}
	}
	t.Fatalf("%s has no commands with %q", page, text)
	return ""
}

// commands of a block, one each, with continued lines joined.
func commands(block string) []string {
	var found []string
	for line := range strings.SplitSeq(strings.ReplaceAll(block, "\\\n", " "), "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			found = append(found, line)
		}
	}
	return found
}

// A fresh Debian 12 with its own containerd: the package is installed while that runs, the commands of the README work, and those of
// docs/operate/operations.md; the package is installed again under a running container, and when it is removed nothing is left.
func TestPackage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("run as root")
	}
	began := time.Now()
	nginx, err := image.Build(t.Context(), "../../.cache", nil)
	if err != nil {
		t.Fatal(err)
	}
	root := newSystem(t, "containerd")
	t.Logf("a Debian with containerd after %s", time.Since(began).Round(time.Second))
	m := start(t, root)
	if version := m.do("containerd --version"); !strings.Contains(version, " 1.6.") {
		t.Errorf("Debian 12 has containerd %s", version)
	}
	idle, before := m.processes(), m.files()
	copyFile(t, nginx.Archive, filepath.Join(root, "tmp/nginx.tar"))
	m.copyDist()
	m.install()
	m.do("ctr image import /tmp/nginx.tar")
	m.readme()
	m.operations()
	if now := m.processes(); now != idle {
		t.Errorf("processes %s, want %s", now, idle)
	}

	m.do("dpkg --remove " + name)
	if kept := m.do("find /etc/" + name + " -type f"); kept != "/etc/lifecycle-shim/config.toml\n" {
		t.Errorf("removed, not purged, it keeps %q", kept)
	}
	m.do("dpkg --purge " + name)
	m.do("rm -rf /tmp/*")
	after := m.files()
	for path, what := range after {
		emptied := strings.HasPrefix(path, "/usr/local/share/") && strings.HasPrefix(what, "d") // by the tarball's removal
		if before[path] != what && !emptied {
			t.Errorf("left behind: %s (%s, was %q)", path, what, before[path])
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			t.Errorf("%s is gone", path)
		}
	}
	t.Logf("all of it took %s", time.Since(began).Round(time.Second))
}

// readme runs the README's commands as they are there, but for the image.
func (m *machine) readme() {
	m.t.Helper()
	lines := commands(strings.ReplaceAll(block(m.t, "README.md", "ctr run -d --runtime"), "IMAGE", image.Ref))
	if len(lines) != 4 {
		m.t.Fatalf("the README has the commands %q", lines)
	}
	began := time.Now()
	m.do(lines[0])
	if took := time.Since(began); took < 2*time.Second {
		m.t.Errorf("the start was not held: %s", took)
	}
	m.wantMessage("/message", "hi")
	began = time.Now()
	m.do(lines[1])
	m.want("lifecyclectl status web", "PreStop (SIGTERM waits)")
	m.want("ctr task ls", "STOPPED")
	if took := time.Since(began); took < 3*time.Second {
		m.t.Errorf("the stop was not delayed: %s", took)
	}
	m.want("lifecyclectl status web", "preStop exec")
	m.do(lines[2])
	m.do(lines[3])
	m.want("lifecyclectl status", "no containers with handlers")
	m.poll("the shim's end", func() bool { return !strings.Contains(m.processes(), shimName) })
}

// wantMessage that a handler has written in the container.
func (m *machine) wantMessage(path, text string) {
	m.t.Helper()
	if got := strings.TrimSpace(m.do("ctr task exec --exec-id look web cat " + path)); got != text {
		m.t.Errorf("postStart has written %q to %s, want %q", got, path, text)
	}
}

// operations runs the Kubernetes page's example as docs/operate/operations.md has it, with the package installed again meanwhile.
func (m *machine) operations() {
	m.t.Helper()
	lines := commands(strings.ReplaceAll(block(m.t, "docs/operate/operations.md", "killall -0 nginx"), "IMAGE", image.Ref))
	if len(lines) != 3 {
		m.t.Fatalf("docs/operate/operations.md has the commands %q", lines)
	}
	m.do(lines[0])
	m.wantMessage("/usr/share/message", "Hello from the postStart handler")
	running := m.processes()
	m.install()
	m.installTarball()
	if now := m.processes(); now != running {
		m.t.Errorf("an installation has changed what runs: %s, want %s", now, running)
	}
	m.want("lifecyclectl status web", "Running")
	m.do(lines[1])
	m.want("ctr task ls", "STOPPED")
	// nginx is asked to go by the handler, and its exit ends the handler.
	m.want("lifecyclectl status web -o json", "container exited")
	m.do(lines[2])
	m.do("ctr container rm web")
	m.poll("the shim's end", func() bool { return !strings.Contains(m.processes(), shimName) })
}

// The programs of the other architecture run, as far as a user-mode emulator can show: it has no namespaces to put a handler into.
func TestOtherArchitecture(t *testing.T) {
	arch, qemu := "arm64", "qemu-aarch64-static"
	if native(t) == "arm64" {
		arch, qemu = "amd64", "qemu-x86_64-static"
	}
	dir := t.TempDir()
	run(t, limit, "dpkg-deb", "-x", deb(t, arch), dir)
	bin := filepath.Join(dir, "usr/bin")
	version := strings.Split(filepath.Base(deb(t, arch)), "_")[1]
	if out := run(t, limit, qemu, filepath.Join(bin, "lifecyclectl"), "--version"); !strings.Contains(out, version) {
		t.Errorf("lifecyclectl --version says %q", out)
	}
	if out := run(t, limit, qemu, filepath.Join(bin, "containerd-shim-lifecycle-v2"), "-info"); !strings.Contains(out, "io.containerd.lifecycle.v2") {
		t.Errorf("the shim's -info says %q", out)
	}
	out := run(t, limit, "sh", "-c", `"$@" || echo "exit $?"`, "sh", qemu, filepath.Join(bin, "lifecycle-hookexec"))
	if !strings.Contains(out, "usage: lifecycle-hookexec") || !strings.Contains(out, "exit 1") {
		t.Errorf("lifecycle-hookexec says %q", out)
	}
}

// The image that `make image` has made beside the packages holds what it should for each architecture, and the programs of the other one
// start. integration/archive runs this machine's under containerd.
func TestImage(t *testing.T) {
	made := archive.Find(t, dist, "image")
	made.Check(t, "amd64", "arm64")
	for _, one := range made.Images {
		for _, program := range archive.Programs(t) {
			file := filepath.Join(t.TempDir(), program)
			write(t, file, string(one.Files["bin/"+program].Data), 0o755)
			emulator := map[string]string{"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}[one.Arch]
			command := []string{emulator, file, "--version"}
			if one.Arch == native(t) {
				command = command[1:]
			}
			if out := run(t, limit, command[0], command[1:]...); !strings.Contains(made.Name, ":"+version(t, out)) {
				t.Errorf("%s for %s says %q, in the image %s", program, one.Arch, out, made.Name)
			}
		}
	}
}

// version returns the last word of a program's answer.
func version(t *testing.T, answer string) string {
	t.Helper()
	words := strings.Fields(answer)
	if len(words) == 0 {
		t.Fatal("a program does not say its version")
	}
	return words[len(words)-1]
}

// What is in dist/ is what SHA256SUMS says, and each SBOM lists what go.mod and Debian brought into the programs.
func TestSumsAndBills(t *testing.T) {
	run(t, limit, "sh", "-c", "cd "+dist+" && sha256sum --check --strict SHA256SUMS")
	sums, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dist)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !strings.Contains(string(sums), "  "+file.Name()+"\n") && file.Name() != "SHA256SUMS" {
			t.Errorf("%s has no sum", file.Name())
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		refs := billOf(t, arch)
		for _, want := range []string{
			moduleInGoMod(t, "github.com/opencontainers/runc"), moduleInGoMod(t, "github.com/containerd/containerd/v2"),
			"pkg:golang/std@", "pkg:deb/debian/libseccomp@", "pkg:deb/debian/glibc@",
		} {
			if !slices.ContainsFunc(refs, func(ref string) bool { return strings.HasPrefix(ref, want) }) {
				t.Errorf("the SBOM for %s has no %s", arch, want)
			}
		}
	}
}

// billOf returns the package URLs in an SBOM, which must be the one inside the package.
func billOf(t *testing.T, arch string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dist, "*-"+arch+".cdx.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%d SBOMs for %s", len(found), arch)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	inside := run(t, limit, "sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -xO ./usr/share/doc/lifecycle-shim/sbom.cdx.json`, "sh", deb(t, arch))
	if inside != string(text) {
		t.Errorf("the SBOM in the package for %s is another one", arch)
	}
	var bill struct {
		BomFormat  string
		Components []struct{ Purl string }
	}
	if err := json.Unmarshal(text, &bill); err != nil || bill.BomFormat != "CycloneDX" {
		t.Fatalf("%s: %q, %v", found[0], bill.BomFormat, err)
	}
	var refs []string
	for _, component := range bill.Components {
		refs = append(refs, component.Purl)
	}
	return refs
}

// moduleInGoMod is a module's package URL, with the version that go.mod has.
func moduleInGoMod(t *testing.T, path string) string {
	t.Helper()
	version := strings.TrimSpace(run(t, limit, "go", "list", "-m", "-f", "{{.Version}}", path))
	return fmt.Sprintf("pkg:golang/%s@%s", path, version)
}

// copyDist puts what is for this architecture where a user may have downloaded it. The page's commands are amd64's.
func (m *machine) copyDist() {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(dist, "*"+native(m.t)+"*"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.do("mkdir /tmp/dist")
	for _, file := range append(files, filepath.Join(dist, "SHA256SUMS")) {
		copyFile(m.t, file, filepath.Join(m.root, "tmp/dist", filepath.Base(file)))
	}
}

// install runs the page's commands for the package, in the directory with the files.
func (m *machine) install() {
	m.t.Helper()
	for _, line := range commands(strings.ReplaceAll(block(m.t, "docs/operate/operations.md", "apt-get install"), "amd64", native(m.t))) {
		m.do("cd /tmp/dist && " + strings.Replace(line, "apt-get install", "apt-get install -y --reinstall", 1))
	}
	m.wantBuild("/usr/bin")
}

// installTarball is the page's other way, there and back.
func (m *machine) installTarball() {
	m.t.Helper()
	run := func(text string) {
		for _, line := range commands(strings.ReplaceAll(block(m.t, "docs/operate/operations.md", text), "amd64", native(m.t))) {
			m.do("cd /tmp/dist && " + line)
		}
	}
	run("tar -xzf")
	m.wantBuild("/usr/local/bin")
	run("tar -tzf")
}

// wantBuild wants the three programs in a directory that comes first on the PATH.
func (m *machine) wantBuild(dir string) {
	m.t.Helper()
	for _, program := range []string{"containerd-shim-lifecycle-v2 -v", "lifecyclectl --version"} {
		if found := strings.TrimSpace(m.do("command -v " + program)); !strings.HasPrefix(found, dir+"/") {
			m.t.Errorf("%s is %s, want it in %s", program, found, dir)
		}
		m.do(program)
	}
	m.do("test -x " + dir + "/lifecycle-hookexec")
}
