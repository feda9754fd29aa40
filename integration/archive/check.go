package archive

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	documents = "usr/share/doc/lifecycle-shim/"
	prefix    = "org.opencontainers.image."
)

// machines are what the programs' headers have, by architecture.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// Programs are the names of the product's programs: each has its directory in cmd.
func Programs(t testing.TB) []string {
	t.Helper()
	mains, err := filepath.Glob("../../cmd/*/main.go")
	if err != nil || len(mains) < 3 {
		t.Fatalf("found the programs %q", mains)
	}
	for n := range mains {
		mains[n] = filepath.Base(filepath.Dir(mains[n]))
	}
	return mains
}

// Check wants an archive that is valid and holds, for exactly these architectures, the product and nothing else.
func (a *Archive) Check(t *testing.T, arches ...string) {
	t.Helper()
	var found []string
	for _, image := range a.Images {
		found = append(found, image.Arch)
		t.Run(image.Arch, func(t *testing.T) {
			image.check(t)
			a.checkAnnotations(t, image)
		})
	}
	if !slices.Equal(found, arches) {
		t.Errorf("%s has images for %q, want %q", a.File, found, arches)
	}
}

// check wants the expected files, and that the programs are static ones of the architecture.
func (i *Image) check(t *testing.T) {
	t.Helper()
	files, programs := i.Files, Programs(t)
	want := []string{
		"bin/", "etc/", "etc/group", "etc/passwd", "usr/", "usr/share/", "usr/share/doc/", documents,
		documents + "LICENSE", documents + "licenses.txt", documents + "sbom.cdx.json",
	}
	for _, program := range programs {
		want = append(want, "bin/"+program)
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Fatalf("the image's files are not those expected:\n%s", cmp.Diff(want, got))
	}
	for name, file := range files {
		mode := int64(0o644)
		if strings.HasSuffix(name, "/") || strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		if file.Mode != mode || file.Uid != 0 || file.Gid != 0 || !file.ModTime.Equal(i.Config.Created.Time) {
			t.Errorf("%s has mode %o, owner %d:%d and time %s", name, file.Mode, file.Uid, file.Gid, file.ModTime)
		}
	}
	for _, program := range programs {
		i.checkProgram(t, program, files["bin/"+program].Data)
	}
	checkBill(t, files, programs)
	for _, text := range []string{"Apache License", "Debian's libseccomp-dev", "k8s.io/", "github.com/opencontainers/runc@"} {
		if !bytes.Contains(files[documents+"licenses.txt"].Data, []byte(text)) {
			t.Errorf("licenses.txt does not have %q", text)
		}
	}
}

func (i *Image) checkProgram(t *testing.T, name string, data []byte) {
	t.Helper()
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if program.Machine != machines[i.Arch] {
		t.Errorf("%s is for %v, in the image for %s", name, program.Machine, i.Arch)
	}
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP || part.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is not static: it has a %v", name, part.Type)
		}
	}
}

// checkBill wants that the SBOM names each program with its hash, and the C library.
func checkBill(t *testing.T, files map[string]File, programs []string) {
	t.Helper()
	var bill struct {
		Components []struct {
			Name   string
			Purl   string
			Hashes []struct{ Content string }
		}
	}
	if err := json.Unmarshal(files[documents+"sbom.cdx.json"].Data, &bill); err != nil {
		t.Fatal(err)
	}
	hashes, purls := map[string]string{}, ""
	for _, component := range bill.Components {
		purls += component.Purl + "\n"
		if len(component.Hashes) == 1 {
			hashes[component.Name] = component.Hashes[0].Content
		}
	}
	for _, program := range programs {
		if sum := sumOf(files["bin/"+program].Data); hashes[program] != sum {
			t.Errorf("the SBOM has the hash %q of %s", hashes[program], program)
		}
	}
	for _, want := range []string{"pkg:deb/debian/libseccomp@", "pkg:golang/github.com/opencontainers/runc@", "pkg:golang/std@"} {
		if !strings.Contains(purls, want) {
			t.Errorf("the SBOM has no %s", want)
		}
	}
}

// checkAnnotations wants the same description of the image wherever people look for it.
func (a *Archive) checkAnnotations(t *testing.T, image *Image) {
	t.Helper()
	config := image.Config.Config
	for place, found := range map[string]map[string]string{"index": a.Index.Annotations, "manifest": image.Manifest.Annotations, "labels": config.Labels} {
		if found[prefix+"source"] != "https://github.com/lifecycle-shim/lifecycle-shim" || found[prefix+"licenses"] != "Apache-2.0" || found[prefix+"revision"] == "" ||
			!strings.HasSuffix(a.Name, ":"+found[prefix+"version"]) || !maps.Equal(found, a.Index.Annotations) {
			t.Errorf("the %s of %s are %v", place, a.Name, found)
		}
	}
	if config.User != "65532:65532" || len(config.Entrypoint) > 0 || !slices.Equal(config.Cmd, []string{"/bin/lifecyclectl"}) {
		t.Errorf("the configuration is %+v", config)
	}
	if sbom := strings.TrimSuffix(a.File, ".oci.tar") + "-linux-" + image.Arch + ".oci.cdx.json"; !bytes.Equal(read(t, sbom), image.Files[documents+"sbom.cdx.json"].Data) {
		t.Errorf("%s is not the SBOM in the image", sbom)
	}
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
