package containerlog

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStreamsThatAreNotThere: the output goes nowhere, and the result says why.
func TestStreamsThatAreNotThere(t *testing.T) {
	directory := t.TempDir()
	log := filepath.Join(directory, "log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	device, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	for name, test := range map[string]struct {
		stream  Stream
		because error
	}{
		"none":                          {Of("", false, 0), errNone},
		"none, on a terminal":           {Of("", true, 0), errNone},
		"a FIFO that is gone":           {Of("/nowhere/c1-stdout", false, 0), os.ErrNotExist},
		"a file that the shim has not":  {Of("file://"+log, false, 0), errClosed},
		"a directory":                   {Of(directory, false, 0), nil},
		"a file that is gone":           {Of("file:///nowhere/log", false, 0), os.ErrNotExist},
		"no URL":                        {Of("%zz:", false, 0), nil},
		"a device":                      {Of("/dev/null", false, 0), nil},
		"a terminal's logger":           {Of("binary:///bin/logger", true, os.Getpid()), errTerminal},
		"a restored container's logger": {Of("binary:///bin/logger?a=b", false, 0), errUnknown},
		"a logger's, of a process gone": {Of("binary-v2:///bin/logger", false, 1<<30), os.ErrNotExist},
		"a logger's that is a device":   {Of("binary:///bin/logger", false, sleeper(t, device)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := test.stream.Open("preStop")
			write(w, strings.Repeat("a\n", 10), "b")
			lost, err := w.Close()
			if lost != 11 || err == nil || test.because != nil && !errors.Is(err, test.because) {
				t.Errorf("lost %d because of %v, want %v", lost, err, test.because)
			}
		})
	}
	if lost, err := Of("", false, 0).Open("preStop").Close(); lost != 0 || err != nil {
		t.Errorf("lost %d, %v of no output", lost, err)
	}
}

// TestFile: lines come after what others have written, and in one piece; also where
// the file has another name by now, and another file has its name.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "größe 1.log")
	for _, stdout := range []string{path, "file://" + strings.ReplaceAll(path, " ", "%20")} {
		if err := os.WriteFile(path, []byte("before\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		copier, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		stream := Of(stdout, false, 0)
		victim := filepath.Join(dir, "victim")
		if err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Rename(path, path+".1"), os.Symlink(victim, path)); err != nil {
			t.Fatal(err)
		}
		w := mustOpen(t, stream)
		write(w, "a\nb")
		wantLost(t, w, 0, nil)
		if _, err := copier.WriteString("after\n"); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(path + ".1"); string(got) != "before\n[postStart] a\n[postStart] b\nafter\n" {
			t.Errorf("%s: %q, %v", stdout, got, err)
		}
		if got, err := os.ReadFile(victim); len(got) > 0 || err != nil {
			t.Errorf("what the name leads to now has %q, %v", got, err)
		}
		_, _ = copier.Close(), os.Remove(path)
	}
}

// sleeper is a process with that stdout, as a container's init.
func sleeper(t *testing.T, stdout *os.File) int {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sleep", "1000")
	command.Stdout = stdout
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	return command.Process.Pid
}

// TestLoggersPipe: the pipe is found among the shim's own descriptors, and its
// other users see nothing of ours: their writes still wait.
func TestLoggersPipe(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	_ = writer.Fd() // makes it wait, as go-runc does
	stream := Of("binary:///bin/logger?a=b", false, sleeper(t, writer))
	before := descriptors(t)
	w := mustOpen(t, stream)
	flags, err := unix.FcntlInt(writer.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the container's descriptor has the flags %#x, %v", flags, err)
	}
	write(w, "a\nb")
	wantLost(t, w, 0, nil)
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	buffer := make([]byte, 100)
	if n, err := reader.Read(buffer); string(buffer[:n]) != "[postStart] a\n[postStart] b\n" {
		t.Errorf("%q, %v", buffer[:n], err)
	}
	if err := writer.Close(); err != nil { // as at the container's deletion
		t.Fatal(err)
	}
	if w := stream.Open("preStop"); !errors.Is(w.err, errClosed) {
		t.Errorf("got %v", w.err)
	}
}

// TestForeignPipe: a pipe that the shim does not hold is never opened, for anything that
// the process shows.
func TestForeignPipe(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stream := Of("binary:///bin/logger", false, sleeper(t, writer))
	_, _ = reader.Close(), writer.Close()
	wantNothing := stream.Open("preStop")
	write(wantNothing, "secret\n")
	wantLost(t, wantNothing, 1, errClosed)
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestNothingIsLeft: descriptors and goroutines end with the writer, with any reader.
func TestNothingIsLeft(t *testing.T) {
	fifo := newFIFO(t)
	before := descriptors(t)
	for range 20 {
		w := mustOpen(t, fifo.stream())
		write(w, strings.Repeat("x", 2_000_000))
		if _, err := w.Close(); !errors.Is(err, errSlow) {
			t.Errorf("%v", err)
		}
		<-w.done
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
