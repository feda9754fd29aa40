package launch

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// TestPkgShimOpensNoLog: it would wait for a reader without limit.
func TestPkgShimOpensNoLog(t *testing.T) {
	var config shim.Config
	if WithoutLog(&config); !config.NoSetupLogger {
		t.Errorf("got %+v", config)
	}
}

// keepLog gives the test's stderr and log back when the test has ended.
func keepLog(t *testing.T) {
	t.Helper()
	logger := log.L.Logger
	out, level, formatter, stderr := logger.Out, logger.Level, logger.Formatter, os.Stderr
	saved, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Dup2(saved, 2); err != nil {
			t.Error(err)
		}
		closeAll(saved)
		if file, ok := logger.Out.(*os.File); ok && logger.Out != out {
			_ = file.Close()
		}
		os.Stderr, logger.Level, logger.Formatter = stderr, level, formatter
		logger.SetOutput(out)
	})
}

// TestSetLog: the log and what is written to stderr, as by a panic, reach containerd. Only -debug asks for details.
func TestSetLog(t *testing.T) {
	for _, debug := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "debug"}[debug], func(t *testing.T) {
			keepLog(t)
			t.Chdir(t.TempDir())
			if err := unix.Mkfifo(logPipe, 0o700); err != nil {
				t.Fatal(err)
			}
			reader, err := unix.Open(logPipe, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll(reader)
			if err := SetLog(t.Context(), debug); err != nil {
				t.Fatal(err)
			}
			log.L.Debug("details")
			log.L.Info("from the log")
			if _, err := os.Stderr.WriteString("from a panic\n"); err != nil {
				t.Fatal(err)
			}
			buffer := make([]byte, 4096)
			n, _ := unix.Read(reader, buffer)
			got := string(buffer[:max(n, 0)])
			if !strings.Contains(got, `msg="from the log"`) || !strings.HasSuffix(got, "\nfrom a panic\n") || strings.Contains(got, "details") != debug {
				t.Errorf("containerd reads %q", got)
			}
			if !bytes.Contains(buffer[:40], []byte(".")) || !strings.HasPrefix(got, `time="2`) {
				t.Errorf("the time of %q has no fractions of a second", got)
			}
		})
	}
}

// TestLogThatCannotBeSet leaves nothing open.
func TestLogThatCannotBeSet(t *testing.T) {
	keepLog(t)
	t.Chdir(t.TempDir())
	if err := SetLog(t.Context(), false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a bundle: %v", err)
	}
	if err := unix.Mkfifo(logPipe, 0o700); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := SetLog(ended, false); !errors.Is(err, context.Canceled) {
		t.Errorf("without a reader, and at the end: %v", err)
	}
	reader, err := unix.Open(logPipe, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(reader)
	closed, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	os.Stderr = closed // as if the shim had none
	if err := SetLog(t.Context(), false); err == nil || !strings.HasPrefix(err.Error(), "redirect stderr to log: ") {
		t.Errorf("without a stderr: %v", err)
	}
	if n, err := unix.Read(reader, make([]byte, 1)); n != 0 || err != nil { // EAGAIN while it is open for writing
		t.Errorf("the log's pipe is still open: %d, %v", n, err)
	}
}
