package archive

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// built is the image that the tests' make target has made for this machine.
func built(t testing.TB) *Archive {
	t.Helper()
	return Find(t, "../../bin/image", "test-image")
}

// TestContent: what the image holds, and how it describes itself. `make check-package` does the same for all architectures.
func TestContent(t *testing.T) { built(t).Check(t, runtime.GOARCH) }

// TestSameBytes: the same programs give the same archive and the same SBOM, with another umask, in another time zone and place.
// `make check-reproducible` builds the programs twice as well.
func TestSameBytes(t *testing.T) {
	first := built(t)
	config := first.Images[0].Config
	name, version, _ := strings.Cut(first.Name, ":")
	dir := t.TempDir()
	pack := exec.CommandContext(t.Context(), "sh", "-c", `umask 077; exec "$@"`, "sh",
		"../../tools/pack-image", version, config.Config.Labels[prefix+"revision"], name, dir, runtime.GOARCH)
	pack.Env = append(os.Environ(), "TZ=Pacific/Auckland", "SOURCE_DATE_EPOCH="+strconv.FormatInt(config.Created.Unix(), 10))
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if second := Find(t, dir, "test-image"); second.Digest != first.Digest {
		t.Errorf("the digest is %s, and was %s: is bin/image older than bin/?", second.Digest, first.Digest)
	}
	for _, file := range []string{filepath.Base(first.File), "SHA256SUMS"} {
		if !bytes.Equal(read(t, filepath.Join(dir, file)), read(t, filepath.Join(filepath.Dir(first.File), file))) {
			t.Errorf("%s is not the same, twice", file)
		}
	}
}

// TestNoImageOfBadInput: what cannot be packed leaves the earlier image as it is.
func TestNoImageOfBadInput(t *testing.T) {
	dir := t.TempDir()
	earlier := filepath.Join(dir, "lifecycle-shim-0.0.1.oci.tar")
	if err := os.WriteFile(earlier, []byte("earlier"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]struct{ epoch, revision, name, arch string }{
		"set REVISION":     {"1", "", "example.com/a", runtime.GOARCH},
		"SOURCE_DATE":      {"", "r", "example.com/a", runtime.GOARCH},
		"the image's name": {"1", "r", "Not/A/Name", runtime.GOARCH},
		"neither amd64":    {"1", "r", "example.com/a", "s390x"},
	} {
		pack := exec.CommandContext(t.Context(), "../../tools/pack-image", "0.1.0", c.revision, c.name, dir, c.arch)
		pack.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+c.epoch)
		out, err := pack.CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%+v: %v, want %q\n%s", c, err, want, out)
		}
		if string(read(t, earlier)) != "earlier" {
			t.Fatalf("%+v has changed the earlier image", c)
		}
	}
}
