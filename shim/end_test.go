package shim

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/launch"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/metrics"
)

// TestEndOfTheShimCounts: what handlers did is counted when the shim has ended, also if another shim is at the counters.
func TestEndOfTheShimCounts(t *testing.T) {
	s, _, _ := newTestService(t)
	path := filepath.Join(t.TempDir(), "lifecycle.prom")
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(lock.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s.counters.Add(path, metrics.Counts{metrics.Kills: 1})
	unlocked := make(chan struct{})
	time.AfterFunc(countWait/10, func() { defer close(unlocked); _ = unix.Flock(fd, unix.LOCK_UN) })
	defer func() { <-unlocked; _ = lock.Close() }()
	if err := s.end(t.Context()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), metrics.Kills+" 1\n") {
		t.Errorf("%v: %s", err, text)
	}
}

// TestAnsweredRequestsHoldNoEnd: the end of a shim waits for Creates and Deletes under way only, and for each of them.
func TestAnsweredRequestsHoldNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{}).serve().mustStart()
		if _, err := w.service.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c2", Bundle: bundle(t, "", nil)}); err != nil {
			t.Fatal(err)
		}
		w.exit()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // it gives back what it holds
			began := time.Now()
			w.service.awaitAnswers(t.Context())
			if waited := time.Since(began); waited != 0 {
				t.Errorf("the end waits %s", waited)
			}
		}
		w.inner.Answer["Create"] = func(context.Context, any) (any, error) {
			pass(time.Second)
			return &taskapi.CreateTaskResponse{}, nil
		}
		go func() {
			_, _ = w.service.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c3", Bundle: bundle(t, "", nil)})
		}()
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		cancel() // the end of the shim's context does not shorten it
		began := time.Now()
		w.service.awaitAnswers(gone)
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("the end waits %s for a Create", waited)
		}
	})
}

// TestEndOfTheShim: everything that runs for a container ends, the sockets are gone, and no other shim's are removed.
func TestEndOfTheShim(t *testing.T) {
	flags := flag.CommandLine
	defer func() { flag.CommandLine = flags }()
	flag.CommandLine = flag.NewFlagSet("shim", flag.ContinueOnError)
	flag.String("socket", "/run/other", "") // pkg/shim's
	flag.String("debug-socket", "/run/other", "")
	s, _, _ := newTestService(t)
	removed := false
	s.ending.RegisterCallback(func(context.Context) error { removed = true; return nil })
	if err := s.end(t.Context()); err != nil {
		t.Error(err)
	}
	if !removed || !s.ending.ended || s.ctx.Err() == nil {
		t.Errorf("sockets removed: %t, ended: %t, context: %v", removed, s.ending.ended, s.ctx.Err())
	}
	for _, name := range []string{"socket", "debug-socket"} {
		if got := flag.Lookup(name).Value.String(); got != "/dev/null/none" {
			t.Errorf("pkg/shim would remove %s", got)
		}
	}
}

// TestEndRemovesTheSockets when it is decided, the task API's last, and no other shim's.
func TestEndRemovesTheSockets(t *testing.T) {
	dir := t.TempDir()
	var sockets launch.Sockets
	for _, name := range []string{"s", "d"} {
		path := filepath.Join(dir, name)
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		own, err := launch.At(path)
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, own)
	}
	e := newTestEnding(t)
	e.sockets = sockets
	var seen []string
	e.RegisterCallback(func(context.Context) error {
		seen = entriesOf(t, dir)
		return os.Remove(filepath.Join(dir, "s"))
	})
	e.close(t.Context())
	if !slices.Equal(seen, []string{"s"}) || len(entriesOf(t, dir)) > 0 {
		t.Errorf("at the removal of the task API's socket there is %v, at the end %v", seen, entriesOf(t, dir))
	}
	if err := os.WriteFile(filepath.Join(dir, "s"), nil, 0o600); err != nil { // another shim's
		t.Fatal(err)
	}
	e.close(t.Context())
	if len(entriesOf(t, dir)) != 1 {
		t.Error("another shim's socket is removed")
	}
}

func entriesOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// The task API's socket goes also if the runc service cannot remove it.
func TestEndRemovesTheSocketItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	own, err := launch.At(path)
	if err != nil {
		t.Fatal(err)
	}
	e := newTestEnding(t)
	e.sockets = launch.Sockets{own}
	e.RegisterCallback(func(context.Context) error { return errors.New("cannot remove it") })
	e.close(t.Context())
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket: %v", err)
	}
}

// TestEndOfTheShimAwaitsDeletes: the Shutdown that follows another container's Delete ends the shim as soon as the runc service has
// none, which is before it sends TaskDelete.
func TestEndOfTheShimAwaitsDeletes(t *testing.T) {
	for name, c := range map[string]struct{ takes, want time.Duration }{
		"that end":  {answerWait / 2, answerWait / 2},
		"that hang": {time.Hour, answerWait},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, preStop(0), &fakeHandlers{}).serve().mustStart()
				w.exit()
				ended := make(chan time.Duration)
				w.inner.Answer["Delete"] = func(context.Context, any) (any, error) {
					began := time.Now()
					go func() {
						if err := w.service.end(t.Context()); err != nil {
							t.Error(err)
						}
						ended <- time.Since(began)
					}()
					pass(c.takes)
					w.emit(&eventstypes.TaskDelete{ContainerID: "c1"})
					return &taskapi.DeleteResponse{}, nil
				}
				var group sync.WaitGroup
				group.Go(func() {
					if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
						t.Error(err)
					}
				})
				if waited := <-ended; waited != c.want {
					t.Errorf("the shim ended after %s", waited)
				}
				if published := strings.Contains(w.publisher.Published(), "delete"); published != (c.takes == c.want) {
					t.Errorf("published %q", w.publisher.Published())
				}
				group.Wait()
			})
		})
	}
}
