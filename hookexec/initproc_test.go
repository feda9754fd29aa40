package hookexec

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestStatOfOddlyNamedCommands: a program can set its name, with brackets, spaces and
// newlines.
func TestStatOfOddlyNamedCommands(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plain", "a) R 1 (b", ")))))", "((", "two words", "new\nline", ") S 1 2 3 4 5 4"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			if err := os.Symlink(sleep, path); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path, "1000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			init, err := NewInit(cmd.Process.Pid, nil)
			if err != nil {
				t.Fatal(err)
			}
			if init.startTime == "" || init.startTime == "0" || init.exiting() {
				t.Errorf("started at %q, exiting %t", init.startTime, init.exiting())
			}
		})
	}
}

// TestParseStat: all three numbers must be valid.
func TestParseStat(t *testing.T) {
	const before, middle = "1 (x) R 2 3 4 5 6 ", " 8 9 10 11 12 13 14 15 16 17 "
	for text, want := range map[string]procStat{
		before + "4194304" + middle + "29 21 22":   {startTime: "22", flags: 4194304, threads: 29},
		before + "7" + middle + "19 21 22 23 24\n": {startTime: "22", flags: 7, threads: 19},
	} {
		if got, err := parseStat(text); err != nil || got != want {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ")", "1 (x", before + "7" + middle + "19 21", before + "-7" + middle + "19 21 22", before + "7" + middle + "x 21 22"} {
		if got, err := parseStat(text); err == nil {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

func TestOwnProcessIsNotExiting(t *testing.T) {
	init, err := NewInit(os.Getpid(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if init.exiting() || init.Ended(t.Context()) {
		t.Error("this process is reported as exiting")
	}
}

func TestZombieIsExiting(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	init, err := NewInit(cmd.Process.Pid, nil)
	if err != nil {
		t.Fatal(err)
	}
	if init.exiting() {
		t.Error("a sleeping process is reported as exiting")
	}
	_ = stdin.Close()
	// It has exited, and is not reaped yet.
	if err := unix.Waitid(unix.P_PID, init.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if !init.exiting() || init.lives() {
		t.Error("a zombie is reported as alive")
	}
	known := make(chan struct{})
	close(known)
	began := time.Now()
	if exits, err := NewInit(init.Pid, known); err != nil || !exits.Ended(t.Context()) || time.Since(began) > exitWait/2 {
		t.Errorf("it waited although the exit is known: %v, %s", err, time.Since(began))
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if !init.exiting() {
		t.Error("a process that is gone is reported as not exiting")
	}
	if _, err := NewInit(init.Pid, nil); err == nil {
		t.Error("NewInit accepts a process that is gone")
	}
}

// TestAnotherProcessOfThatNumberIsNotTheInit: pids are reused.
func TestAnotherProcessOfThatNumberIsNotTheInit(t *testing.T) {
	init, err := NewInit(os.Getpid(), nil)
	if err != nil {
		t.Fatal(err)
	}
	init.startTime += "1"
	if !init.exiting() {
		t.Error("another process was taken for the init")
	}
}

// TestEndedWaitsForTheExit: at most exitWait, even if the handler's context is cancelled.
func TestEndedWaitsForTheExit(t *testing.T) {
	const never = -1
	for name, test := range map[string]struct{ exits, want time.Duration }{
		"known already": {0, 0},
		"known soon":    {300 * time.Millisecond, 300 * time.Millisecond},
		"never known":   {never, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				exited := make(chan struct{})
				init := &Init{Pid: 1<<22 + 1, Exited: exited} // above every pid (PID_MAX_LIMIT), so gone
				switch {
				case test.exits == 0:
					close(exited)
				case test.exits > 0:
					time.AfterFunc(test.exits, func() { close(exited) })
				}
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				began := time.Now()
				if !init.Ended(ctx) {
					t.Error("a process that is gone is reported as running")
				}
				if waited := time.Since(began); waited != test.want {
					t.Errorf("it waited %s, want %s", waited, test.want)
				}
			})
		})
	}
}

// TestLiving: a process without its first thread is alive while it has another thread.
func TestLiving(t *testing.T) {
	init := &Init{startTime: "7"}
	for stat, want := range map[procStat]bool{
		{}:                           false,
		{startTime: "7", threads: 1}: false,
		{startTime: "7", threads: 2}: true,
		{startTime: "8", threads: 2}: false,
	} {
		if init.livesBy(stat) != want {
			t.Errorf("%+v: got %t", stat, !want)
		}
	}
}

// TestProcessOfOneThreadHasNotEnded: Ended returns false at once.
func TestProcessOfOneThreadHasNotEnded(t *testing.T) {
	_, own := sleeping(t)
	defer own.close()
	init, err := NewInit(own.pid, nil)
	if err != nil {
		t.Fatal(err)
	}
	if init.Ended(t.Context()) {
		t.Error("it is reported as ended")
	}
}
