package filter

import (
	"io"
	"os"
	"testing"

	libseccomp "github.com/seccomp/libseccomp-golang"
)

// export returns the program that libcontainer would get.
func export(t *testing.T, filter *libseccomp.ScmpFilter) []byte {
	t.Helper()
	file, err := os.Create(t.TempDir() + "/program")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := filter.ExportBPF(file); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	program, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return program
}
