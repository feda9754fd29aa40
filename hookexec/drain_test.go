package hookexec

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBackgroundWithoutDescriptors: if descriptors run out, the output is closed. Nothing
// else fails.
func TestBackgroundWithoutDescriptors(t *testing.T) {
	for spare := range 3 { // it needs one for the copy and one for epoll
		t.Run(fmt.Sprint(spare), func(t *testing.T) {
			background, _ := newBackground(t, nil)
			o, writer, err := newOutput(100, nil, background)
			if err != nil {
				t.Fatal(err)
			}
			defer writer.Close()
			fds := openFDs(t)
			var limit unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			lowered := limit
			lowered.Cur = numberAfter(t, spare)
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
				t.Fatal(err)
			}
			o.finish()
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
				t.Fatal(err)
			}
			if kept := background.count() == 1; kept != (spare == 2) {
				t.Errorf("%d are kept", background.count())
			}
			background.Close()
			if got := openFDs(t); got != fds-1 { // the reader
				t.Errorf("%d descriptors, want %d", got, fds-1)
			}
		})
	}
}

// newPipe returns a nonblocking pipe. Its write end is closed at the end of the test.
func newPipe(t *testing.T) (reader, writer int) {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeFD(pipe[1]) })
	return pipe[0], pipe[1]
}

// TestLeftoverIsReadToItsEnd: an empty pipe is not taken for end of file.
func TestLeftoverIsReadToItsEnd(t *testing.T) {
	reader, writer := newPipe(t)
	defer closeFD(reader)
	left, buffer := &leftover{fd: reader}, make([]byte, 4096)
	for _, size := range []int{0, 1, 5000} {
		if _, err := unix.Write(writer, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if !left.read(drainSize, buffer) {
			t.Errorf("%d bytes: read reports end of file", size)
		}
		if waiting, err := unix.IoctlGetInt(reader, unix.TIOCINQ); waiting > 0 || err != nil {
			t.Errorf("%d bytes: %d remain, %v", size, waiting, err)
		}
	}
	if err := unix.Dup3(reader, writer, unix.O_CLOEXEC); err != nil { // the pipe has no writer now
		t.Fatal(err)
	}
	if left.read(drainSize, buffer) {
		t.Error("read does not report end of file")
	}
}

// TestReleasedOutputIsNotWaitedFor: epoll drops a released output even if a copy of its descriptor is open, as in a process
// that is being forked. Otherwise epoll would report it for ever.
func TestReleasedOutputIsNotWaitedFor(t *testing.T) {
	background, _ := newBackground(t, nil)
	first, writer := newPipe(t)
	second, _ := newPipe(t)
	for _, fd := range []int{first, second} {
		if ok, _ := background.add(&leftover{fd: fd}); !ok {
			t.Fatal("add refused the output")
		}
	}
	duplicate, err := unix.FcntlInt(uintptr(first), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(duplicate)
	if err := unix.Dup3(second, writer, unix.O_CLOEXEC); err != nil { // closes the first one's write end
		t.Fatal(err)
	}
	waitFor(t, func() bool { return background.count() == 1 })
	var info []byte
	if err := background.drain.raw.Control(func(fd uintptr) { info, err = os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd)) }); err != nil {
		t.Fatal(err)
	}
	if waited := strings.Count(string(info), "tfd:"); waited != 1 || err != nil {
		t.Errorf("epoll waits for %d outputs, %v:\n%s", waited, err, info)
	}
}

// TestDrainWaits: wait blocks until an output is ready, and returns an error after close.
func TestDrainWaits(t *testing.T) {
	drain, err := newDrain()
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(50*time.Millisecond, drain.close)
	defer timer.Stop()
	if ready, err := drain.wait(); err == nil || len(ready) > 0 {
		t.Errorf("got %v, %v", ready, err)
	}
}

// TestBackgroundOfAFile: epoll refuses a file, so it is not kept, and no goroutine stays.
func TestBackgroundOfAFile(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	background, _ := newBackground(t, nil)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if ok, full := background.add(&leftover{fd: int(file.Fd())}); ok || full || background.count() != 0 {
		t.Errorf("kept: %t, full: %t; %d outputs", ok, full, background.count())
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
}

// numberAfter returns a limit for descriptor numbers below which exactly spare ones are free.
func numberAfter(t *testing.T, spare int) uint64 {
	t.Helper()
	for {
		file, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if spare--; spare < 0 {
			return uint64(file.Fd())
		}
	}
}

// TestBackgroundPacketsCostLittle: a pipe in packet mode returns one write per read, and a
// process can refill it with tee(2) faster than it can be read.
func TestBackgroundPacketsCostLittle(t *testing.T) {
	const packets, most = 250, drainSize / 4096
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_DIRECT|unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeFD(pipe[0]); closeFD(pipe[1]) })
	if _, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		t.Fatal(err)
	}
	for range packets {
		if _, err := unix.Write(pipe[1], []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if left := (&leftover{fd: pipe[0]}); !left.read(drainSize, make([]byte, 4096)) {
		t.Error("it exited")
	}
	if waiting, err := unix.IoctlGetInt(pipe[0], unix.TIOCINQ); err != nil || packets-waiting > most {
		t.Errorf("%d packets were read in one period, want at most %d; %v", packets-waiting, most, err)
	}
}
