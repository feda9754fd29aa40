package node

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// counting has its handlers counted in a file of the test's own.
func counting(b *bed.Bench) (path string, edit func(*harness.ContainerConfig)) {
	path = filepath.Join(b.TempDir(), "lifecycle.prom")
	return path, bed.WithOptions(b, fmt.Sprintf("MetricsFile = %q", path))
}

// families of the file, read by Prometheus' own parser.
func families(b *bed.Bench, path string) map[string]*dto.MetricFamily {
	b.Helper()
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	found, err := parser.TextToMetricFamilies(file)
	if err != nil {
		b.Fatalf("Prometheus cannot read the file: %v", err)
	}
	return found
}

// value of a counter, or the count of a histogram, with these values of labels in their order.
func value(families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	sum := 0.0
	for _, metric := range families["lifecycle_shim_"+name].GetMetric() {
		var values []string
		for _, label := range metric.Label {
			values = append(values, label.GetValue())
		}
		if slices.Equal(values, labels) {
			sum += metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// counted is a series and its expected value.
type counted struct {
	want   float64
	name   string
	labels []string
}

// wantCounts polls, as nothing waits for the counting, and then looks whether more comes.
func wantCounts(b *bed.Bench, path string, counts ...counted) {
	b.Helper()
	var wrong []string
	err := harness.Poll(b.Context(), bed.Limit, "the counts", func() (bool, error) {
		now := families(b, path)
		wrong = nil
		for _, c := range counts {
			if got := value(now, c.name, c.labels...); got != c.want {
				wrong = append(wrong, fmt.Sprintf("%s%v is %v, want %v", c.name, c.labels, got, c.want))
			}
		}
		return len(wrong) == 0, nil
	})
	if err != nil {
		text, _ := os.ReadFile(path)
		b.Fatalf("%s in\n%s", strings.Join(wrong, "; "), text)
	}
}

func handlerCount(want float64, kind, what, result string) counted {
	return counted{want, "handlers_total", []string{kind, what, result}}
}

// Each way in which a handler ends, and what the shim does because of it, is counted once, also where the shim
// ends right after it.
func TestMetrics(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, {Name: "1.6-runc", Server: "1.6", Binary: "runc"}}, func(b *bed.Bench) {
		path, edit := counting(b)
		fails := func(annotations bed.Annotations) {
			c, result := b.StartLater(annotations, bed.Obedient, edit)
			b.WantError(b.Await(result).Err, "postStart handler failed")
			c.WantExit(7)
			c.DeleteTask()
		}
		fails(bed.Annotations{bed.KeyPostStart: bed.Shell(bed.WaitForReady + "exit 3")})
		fails(bed.Annotations{bed.KeyPostStart: "{timeoutSeconds: 1, " + bed.Shell("sleep 1000") + "}"})
		stopped := func(annotations bed.Annotations, args []string, status uint32, meanwhile func(*bed.Container)) {
			c := b.Start(annotations, args, edit)
			c.WaitFor("ready")
			c.Signal(syscall.SIGTERM)
			if meanwhile != nil {
				meanwhile(c)
			}
			c.WantExit(status)
			c.DeleteTask()
		}
		stopped(bed.Annotations{bed.KeyPreStop: "{sleep: {seconds: 0}}"}, bed.Obedient, 7, nil)
		stopped(bed.Annotations{bed.KeyPreStop: bed.Shell("touch begun; sleep 1000")}, bed.Obedient, 137, func(c *bed.Container) {
			c.WaitFor("begun")
			c.Signal(syscall.SIGKILL) // a client's, not the shim's
		})
		stopped(bed.Annotations{bed.KeyLifecycle: "{preStop: {" + bed.Shell("exit 4") + "}, terminationGracePeriodSeconds: 10}"}, bed.Forever, 137, nil)
		trial := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, bed.Obedient, edit)
		trial.WaitFor("ready")
		b.WantCtl(nil, "run", trial.ID, "preStop")
		trial.End(137)
		wantCounts(b, path,
			handlerCount(1, "postStart", "exec", "Failed"), handlerCount(1, "postStart", "exec", "TimedOut"),
			handlerCount(1, "preStop", "sleep", "Succeeded"), handlerCount(1, "preStop", "exec", "Aborted"), handlerCount(1, "preStop", "exec", "Failed"),
			handlerCount(0, "preStop", "exec", "Succeeded"), // the trial's
			counted{2, "handler_duration_seconds", []string{"postStart"}}, counted{3, "handler_duration_seconds", []string{"preStop"}},
			counted{2, "starts_held_total", nil}, counted{2, "starts_answered_total", nil},
			counted{3, "stops_delayed_total", nil}, counted{3, "stops_signaled_total", nil},
			counted{1, "deadlines_total", nil}, counted{1, "sigkills_total", nil},
		)
		kinds := map[string]dto.MetricType{}
		for name, family := range families(b, path) {
			kinds[name] = family.GetType()
		}
		if kinds["lifecycle_shim_handlers_total"] != dto.MetricType_COUNTER || kinds["lifecycle_shim_handler_duration_seconds"] != dto.MetricType_HISTOGRAM {
			b.Errorf("the types are %v", kinds)
		}
		wantMode(b, path, 0o644) // a collector is not root
		wantMode(b, path+".lock", 0o600)
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 {
			b.Errorf("beside the file there are %v, %v", entries, err)
		}
	})
}

func wantMode(b *bed.Bench, path string, mode fs.FileMode) {
	b.Helper()
	if info, err := os.Stat(path); err != nil || info.Mode() != mode {
		b.Errorf("%s is %v, %v; want %v", path, info.Mode(), err, mode)
	}
}

// Many shims add to one file, and a concurrent reader finds it whole.
func TestMetricsOfManyShims(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		const shims = 12
		path, edit := counting(b)
		var containers []*bed.Container
		for range shims {
			c := b.NewContainer(bed.Annotations{bed.KeyLifecycle: "{postStart: {sleep: {seconds: 0}}, preStop: {sleep: {seconds: 0}}}"}, bed.Obedient, edit)
			containers = append(containers, c)
		}
		var all sync.WaitGroup
		failed := make(chan error, shims)
		for _, c := range containers {
			all.Go(func() {
				if _, _, err := c.Run(b.Context()); err != nil {
					failed <- err
					return
				}
				if err := harness.Poll(b.Context(), bed.Limit, "the trap", func() (bool, error) { return c.Exists("ready"), nil }); err != nil {
					failed <- err
					return
				}
				_, err := c.Kill(b.Context(), syscall.SIGTERM)
				if err == nil {
					_, err = c.Wait(b.Context())
				}
				if err == nil {
					_, _, err = c.Delete(b.Context())
				}
				if err != nil {
					failed <- err
				}
			})
		}
		done := make(chan struct{})
		go func() { all.Wait(); close(done) }()
		b.Poll("the containers' ends", func() bool {
			families(b, path) // must be whole at any time
			select {
			case <-done:
				return true
			default:
				return false
			}
		})
		close(failed)
		for err := range failed {
			b.Error(err)
		}
		wantCounts(b, path,
			handlerCount(shims, "postStart", "sleep", "Succeeded"), handlerCount(shims, "preStop", "sleep", "Succeeded"),
			counted{shims, "handler_duration_seconds", []string{"postStart"}}, counted{shims, "handler_duration_seconds", []string{"preStop"}},
			counted{shims, "starts_held_total", nil}, counted{shims, "starts_answered_total", nil},
			counted{shims, "stops_delayed_total", nil}, counted{shims, "stops_signaled_total", nil},
		)
	})
}

// A file that cannot be written costs no container anything: the log says what is wrong.
func TestMetricsThatCannotBeWritten(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		lock := filepath.Join(b.TempDir(), "lifecycle.prom")
		holder, err := os.Create(lock + ".lock") // another process holds the lock, forever
		if err != nil {
			b.Fatal(err)
		}
		defer holder.Close()
		if err := unix.Flock(int(holder.Fd()), unix.LOCK_EX); err != nil {
			b.Fatal(err)
		}
		for path, says := range map[string][]string{
			filepath.Join(b.TempDir(), "none", "lifecycle.prom"): {"no such file or directory", "MetricsFile must be in a directory that is there", "none/lifecycle.prom"},
			b.TempDir(): {"is a directory"},
			lock:        nil,
		} {
			c := b.Start(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell("touch /posted") + "}, preStop: {" + bed.Shell("touch /stopped") + "}}"}, bed.Obedient,
				bed.WithOptions(b, fmt.Sprintf("MetricsFile = %q", path)))
			c.WaitFor("ready")
			c.Signal(syscall.SIGTERM)
			c.WantExit(7)
			if !c.Exists("posted") || !c.Exists("stopped") {
				b.Errorf("%s: postStart has run: %t, preStop: %t", path, c.Exists("posted"), c.Exists("stopped"))
			}
			c.DeleteTask()
			if says != nil {
				b.Poll("the warning", func() bool { return b.Logs(append(says, "level=warning", "path="+path)) })
			}
		}
		c := b.NewContainer(bed.Annotations{bed.KeyPreStop: bed.Shell("true")}, bed.Obedient, bed.WithOptions(b, `MetricsFile = "lifecycle.prom"`))
		_, err = c.Create(b.Context())
		b.WantError(err, `MetricsFile: "lifecycle.prom" is no absolute path`)
	})
}
