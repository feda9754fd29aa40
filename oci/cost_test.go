package oci

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// The maximum cost of any annotation value of at most 64 KiB.
const (
	maxWork   = 50 * time.Millisecond // of one processor
	maxHeap   = 16 << 20              // bytes allocated, including those that are freed at once
	maxAnswer = 4 << 10               // bytes of an error
)

// cost is the cost of reading a value.
type cost struct {
	work time.Duration
	heap uint64
}

// measure returns the cost of Problems with the value: it does all that Lifecycle does, and
// lists the errors. The heap includes other goroutines' allocations, so none may run.
func measure(t testing.TB, key, value string) (cost, []*InvalidError) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	spec := &Spec{Annotations: map[string]string{key: value}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := threadTime(t)
	problems := spec.Problems(Limits{})
	work := threadTime(t) - start
	runtime.ReadMemStats(&after)
	return cost{work, after.TotalAlloc - before.TotalAlloc}, problems
}

// threadTime returns this thread's processor time: on a busy machine a clock would measure
// other processes too.
func threadTime(t testing.TB) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

// checkCost checks a value's cost. A measurement may be disturbed (by a garbage collection on
// this thread or by other processes that use the caches), so the best of several counts.
func checkCost(t *testing.T, key, value string) {
	t.Helper()
	best := cost{math.MaxInt64, math.MaxUint64}
	for range 5 {
		got, problems := measure(t, key, value)
		checkAnswer(t, problems)
		best = cost{min(best.work, got.work), min(best.heap, got.heap)}
		if best.work <= slower*maxWork && best.heap <= maxHeap {
			return
		}
	}
	t.Errorf("%d bytes in %s cost %v and %d bytes of heap; allowed are %v and %d", len(value), key, best.work, best.heap, slower*maxWork, maxHeap)
}

// checkAnswer checks the errors for a value.
func checkAnswer(t *testing.T, problems []*InvalidError) {
	t.Helper()
	if len(problems) > 2*maxProblems {
		t.Errorf("%d problems", len(problems))
	}
	for _, problem := range problems {
		said := problem.Error()
		if len(said) > maxAnswer || len(problem.Path) > maxPath || len(problem.Problem) > maxProblem {
			t.Errorf("an error of %d bytes: %s", len(said), shorten.End(said, 200))
		}
		if strings.ContainsAny(said, "\n\x00") || !utf8.ValidString(said) {
			t.Errorf("%q is no line of text", said)
		}
	}
}

// TestCost: FAULTS A1 and A2, and all other bombs.
func TestCost(t *testing.T) {
	for name, value := range bombs {
		if testing.Short() && !strings.HasPrefix(name, "A") {
			continue
		}
		t.Run(name, func(t *testing.T) { checkCost(t, KeyLifecycle, value) })
	}
}

// TestA1OneMistakeOneError: repeated keys result in one error, for any number of pairs.
func TestA1OneMistakeOneError(t *testing.T) {
	for _, times := range []int{2, 500, 4000} {
		problems := (&Spec{Annotations: map[string]string{KeyLifecycle: strings.Repeat("a:\n", times)}}).Problems(Limits{})
		if len(problems) != 1 || problems[0].Error() != `annotation "lifecycle-shim.io/lifecycle" is not valid YAML: line 2: mapping key "a" already defined at line 1` {
			t.Errorf("%d keys: got %v", times, problems)
		}
	}
}

// TestA2AliasesAreWrittenOut: the limit of 64 KiB applies to the value with its aliases written out.
func TestA2AliasesAreWrittenOut(t *testing.T) {
	for name, refused := range map[string]bool{
		"A2 a command of aliases": true, "A2 a word and 2 aliases": true, "A2 headers of aliases": true, "A2 handlers of aliases": true,
	} {
		_, err := (&Spec{Annotations: map[string]string{KeyLifecycle: bombs[name]}}).Lifecycle()
		if (err != nil) != refused || !strings.Contains(err.Error(), "has more than 65536 bytes when it is decoded, with aliases and merge keys (<<) written out") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	half := strings.Repeat("x", 30_000)
	got, err := (&Spec{Annotations: map[string]string{KeyLifecycle: "preStop: {exec: {command: [&a " + half + ",*a]}}"}}).Lifecycle()
	if err != nil || len(got.Block.PreStop.Exec.Command) != 2 || got.Block.PreStop.Exec.Command[1] != half {
		t.Errorf("got %v, %v", got, err)
	}
}

// FuzzCost: no value costs more than the maximum, or results in an error that is too long. To
// find new kinds of bombs, it repeats a short value until it has the maximum length.
func FuzzCost(f *testing.F) {
	for _, bomb := range bombs {
		f.Add(bomb, 0)
	}
	for _, unit := range []string{"a:\n", "- ", "[a,", "{a: b}, ", "- &a x\n- *a\n", "<<: *a\n", "? a\n", "!a x\n", "|\n a\n", "# a\n", "\"a\n\" ", "--- a\n", "1_0.e-1,"} {
		f.Add(unit, 1)
		f.Add(unit, 7)
	}
	f.Fuzz(func(t *testing.T, value string, before int) {
		if unit := value[min(max(before, 0), len(value)):]; unit != "" && len(value) < maxText/8 {
			value += strings.Repeat(unit, (maxText-len(value))/len(unit))
		}
		for _, key := range []string{KeyLifecycle, KeyPreStop} {
			checkCost(t, key, value)
		}
	})
}

// BenchmarkWorst reads every bomb and every value that FuzzCost has kept (here and in Go's
// cache), and reports the highest cost.
func BenchmarkWorst(b *testing.B) {
	values := corpus(b)
	for name, bomb := range bombs {
		values[name] = bomb
	}
	var slowest, largest string
	var worst cost
	for b.Loop() {
		for name, value := range values {
			best := cost{math.MaxInt64, math.MaxUint64}
			for range 5 {
				got, _ := measure(b, KeyLifecycle, value)
				best = cost{min(best.work, got.work), min(best.heap, got.heap)}
			}
			if best.work > worst.work {
				worst.work, slowest = best.work, name
			}
			if best.heap > worst.heap {
				worst.heap, largest = best.heap, name
			}
		}
	}
	b.ReportMetric(float64(len(values)), "values")
	b.ReportMetric(float64(worst.work), "worst-ns")
	b.ReportMetric(float64(worst.heap), "worst-B")
	b.ReportMetric(0, "ns/op") // the sum is meaningless
	b.Logf("slowest: %s, %v; largest: %s, %d bytes", slowest, worst.work, largest, worst.heap)
}

// corpus returns the values that FuzzCost has kept.
func corpus(b *testing.B) map[string]string {
	b.Helper()
	dirs := []string{filepath.Join("testdata", "fuzz", "FuzzCost")}
	if cache, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(cache, "go-build", "fuzz", "github.com/lifecycle-shim/lifecycle-shim/oci", "FuzzCost"))
	}
	values := map[string]string{}
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				b.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				quoted, ok := strings.CutPrefix(strings.TrimSpace(line), "string(")
				if value, err := strconv.Unquote(strings.TrimSuffix(quoted, ")")); ok && err == nil {
					values[filepath.Base(file)] = value
				}
			}
		}
	}
	return values
}
