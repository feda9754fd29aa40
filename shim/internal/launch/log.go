package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

const (
	// logPipe is the FIFO in the bundle that containerd reads a shim's log from.
	logPipe = "log"
	// readerPause is between two looks for that reader.
	readerPause = 10 * time.Millisecond
)

// WithoutLog keeps pkg/shim from opening the log. pkg/shim would wait for a reader without
// limit, even after containerd has given up the Create and removed the bundle; and if the
// bundle had been removed before, it would exit without removing the sockets.
func WithoutLog(config *shim.Config) { config.NoSetupLogger = true }

// SetLog sends the log and stderr to containerd. It fails if the bundle has been removed:
// then containerd does not know this shim.
func SetLog(ctx context.Context, debug bool) error {
	fd, err := openLog(ctx)
	if err != nil {
		return err
	}
	if err := unix.Dup3(fd, int(os.Stderr.Fd()), 0); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("redirect stderr to %s: %w", logPipe, err)
	}
	_ = log.SetFormat(log.TextFormat) // fails for unknown formats only
	if debug {
		_ = log.SetLevel(log.DebugLevel.String())
	}
	log.L.Logger.SetOutput(os.NewFile(uintptr(fd), logPipe))
	return nil
}

// openLog waits for a reader while the FIFO exists. When containerd starts again it opens
// the FIFO, or removes the bundle.
func openLog(ctx context.Context) (int, error) {
	for {
		fd, err := unix.Open(logPipe, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return fd, unix.SetNonblock(fd, false) // a log line waits for a slow reader; none is lost
		case !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EINTR): // ENXIO: no reader
			return -1, fmt.Errorf("open %s: %w", logPipe, err)
		}
		select {
		case <-ctx.Done():
			return -1, ctx.Err()
		case <-time.After(readerPause):
		}
	}
}
