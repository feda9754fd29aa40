package integration

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

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// counting has its handlers counted in a file of the test's own.
func counting(b *bench) (path string, edit func(*harness.ContainerConfig)) {
	path = filepath.Join(b.TempDir(), "lifecycle.prom")
	return path, withOptions(b, fmt.Sprintf("MetricsFile = %q", path))
}

// families of the file, read by Prometheus' own parser.
func families(b *bench, path string) map[string]*dto.MetricFamily {
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

// counted is a series and what it must come to.
type counted struct {
	want   float64
	name   string
	labels []string
}

// wantCounts polls, as nothing waits for the counting, and then looks whether more comes.
func wantCounts(b *bench, path string, counts ...counted) {
	b.Helper()
	var wrong []string
	err := harness.Poll(b.Context(), limit, "the counts", func() (bool, error) {
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
	on(t, []target{pinned, {name: "1.6-runc", server: "1.6", binary: "runc"}}, func(b *bench) {
		path, edit := counting(b)
		fails := func(annotations with) {
			c, result := b.runLater(annotations, obedient, edit)
			b.wantError(b.result(result).err, "postStart handler failed")
			c.wantExit(7)
			c.delete()
		}
		fails(with{keyPostStart: shell(onceReady + "exit 3")})
		fails(with{keyPostStart: "{timeoutSeconds: 1, " + shell("sleep 1000") + "}"})
		stopped := func(annotations with, args []string, status uint32, meanwhile func(*container)) {
			c := b.run(annotations, args, edit)
			c.waitFor("ready")
			c.kill(syscall.SIGTERM)
			if meanwhile != nil {
				meanwhile(c)
			}
			c.wantExit(status)
			c.delete()
		}
		stopped(with{keyPreStop: "{sleep: {seconds: 0}}"}, obedient, 7, nil)
		stopped(with{keyPreStop: shell("touch begun; sleep 1000")}, obedient, 137, func(c *container) {
			c.waitFor("begun")
			c.kill(syscall.SIGKILL) // a client's, not the shim's
		})
		stopped(with{keyLifecycle: "{preStop: {" + shell("exit 4") + "}, terminationGracePeriodSeconds: 10}"}, forever, 137, nil)
		trial := b.run(with{keyPreStop: shell("true")}, obedient, edit)
		trial.waitFor("ready")
		b.wantCtl(nil, "run", trial.ID, "preStop")
		trial.end(137)
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

func wantMode(b *bench, path string, mode fs.FileMode) {
	b.Helper()
	if info, err := os.Stat(path); err != nil || info.Mode() != mode {
		b.Errorf("%s is %v, %v; want %v", path, info.Mode(), err, mode)
	}
}

// Many shims add to one file, and whoever reads it meanwhile finds it whole.
func TestMetricsOfManyShims(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		const shims = 12
		path, edit := counting(b)
		var containers []*container
		for range shims {
			c := b.newContainer(with{keyLifecycle: "{postStart: {sleep: {seconds: 0}}, preStop: {sleep: {seconds: 0}}}"}, obedient, edit)
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
				if err := harness.Poll(b.Context(), limit, "the trap", func() (bool, error) { return c.exists("ready"), nil }); err != nil {
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
		b.poll("the containers' ends", func() bool {
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

// A file that cannot be written costs no container anything: it is told in words what is wrong.
func TestMetricsThatCannotBeWritten(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		lock := filepath.Join(b.TempDir(), "lifecycle.prom")
		holder, err := os.Create(lock + ".lock") // somebody holds the lock, for ever
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
			c := b.run(with{keyLifecycle: "{postStart: {" + shell("touch /posted") + "}, preStop: {" + shell("touch /stopped") + "}}"}, obedient,
				withOptions(b, fmt.Sprintf("MetricsFile = %q", path)))
			c.waitFor("ready")
			c.kill(syscall.SIGTERM)
			c.wantExit(7)
			if !c.exists("posted") || !c.exists("stopped") {
				b.Errorf("%s: postStart has run: %t, preStop: %t", path, c.exists("posted"), c.exists("stopped"))
			}
			c.delete()
			if says != nil {
				b.poll("the warning", func() bool { return b.logs(append(says, "level=warning", "path="+path)) })
			}
		}
		c := b.newContainer(with{keyPreStop: shell("true")}, obedient, withOptions(b, `MetricsFile = "lifecycle.prom"`))
		_, err = c.Create(b.Context())
		b.wantError(err, `MetricsFile: "lifecycle.prom" is no absolute path`)
	})
}
