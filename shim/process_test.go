package shim

import (
	"os"
	"testing"
	"testing/synctest"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

func askProcess(t *testing.T, s *service) *lifecyclev1.Process {
	t.Helper()
	response, err := (&statusService{service: s}).Status(t.Context(), &lifecyclev1.StatusRequest{Collect: true})
	if err != nil {
		t.Fatal(err)
	}
	return response.Shim
}

// TestProcessCounts: one more of each shows as one more, or a leak would not.
func TestProcessCounts(t *testing.T) {
	s := newService(t.Context(), shimtest.NewTask(), newTestEnding(t), newTestTap(t, &shimtest.Publisher{}), nil, nil)
	before := askProcess(t, s)
	if before.Pid != uint32(os.Getpid()) || before.Version == "" || before.Goroutines == 0 || before.Threads == 0 || before.Descriptors < 3 || before.HeapBytes == 0 {
		t.Fatalf("got %v", before)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	kept := make([]byte, 8<<20)
	goOn := make(chan struct{})
	go func() { <-goOn }()
	after := askProcess(t, s)
	if after.Descriptors != before.Descriptors+2 {
		t.Errorf("%d descriptors, and with a pipe %d", before.Descriptors, after.Descriptors)
	}
	if after.Goroutines != before.Goroutines+1 {
		t.Errorf("%d goroutines, and with one more %d", before.Goroutines, after.Goroutines)
	}
	if grown := int64(after.HeapBytes) - int64(before.HeapBytes); grown < 7<<20 || grown > 9<<20 {
		t.Errorf("8 MiB are %d bytes", grown)
	}
	close(goOn)
	read.Close()
	write.Close()
	kept[0] = 1 // in use until here
}

// TestProcessCountsHandlers: those that ended, trials too.
func TestProcessCountsHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := both(newWorld(t, bothHandlers(), &fakeHandlers{postStart: takes(second, hookexec.Result{}), preStop: hangs})).serve()
		for run, want := range []uint64{0, 1} {
			if got := askProcess(t, w.service).Handlers; got != want {
				t.Errorf("after %d handlers it tells %d", run, got)
			}
			if run == 0 {
				w.start(0)
				pass(2 * second)
			}
		}
	})
}
