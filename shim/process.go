package shim

import (
	"os"
	"runtime"
	"runtime/metrics"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// process tells what the shim itself uses. What cannot be read is 0: an operator
// asks for the containers in the first place.
func (s *service) process(collect bool) *lifecyclev1.Process {
	if collect {
		runtime.GC()
	}
	return &lifecyclev1.Process{
		Pid: uint32(os.Getpid()), Version: version.Version, Handlers: s.handlersEnded.Load(),
		Goroutines: uint32(runtime.NumGoroutine()), Threads: entries("/proc/self/task"),
		// Less the one that is open to read them.
		Descriptors: max(entries("/proc/self/fd"), 1) - 1,
		HeapBytes:   liveHeap(),
	}
}

// entries of a directory.
func entries(dir string) uint32 {
	found, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	return uint32(len(found))
}

// liveHeap is what the last garbage collection has left, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64() // the runtime has had it since Go 1.21
}
