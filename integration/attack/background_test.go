package attack

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// backgroundOutputs of the container's first run, as the status reports them.
func backgroundOutputs(c *bed.Container) uint32 {
	c.B.Helper()
	var shown struct {
		Containers []struct {
			Runs []struct{ BackgroundOutputs uint32 }
		}
	}
	if err := json.Unmarshal([]byte(c.B.WantCtl(nil, "status", c.ID, "-o", "json")), &shown); err != nil {
		c.B.Fatal(err)
	}
	return shown.Containers[0].Runs[0].BackgroundOutputs
}

// linesOf of a file in the container.
func linesOf(c *bed.Container, name string) int {
	c.B.Helper()
	if !c.Exists(name) {
		return 0
	}
	return strings.Count(c.Read(name), "\n")
}

// FAULTS C1, docs/spec.md#background: a process that a handler leaves in the background continues to write, also with
// output: Log, and neither a signal nor a full pipe ends it. The status reports it for as
// long as it is there. What it writes is kept nowhere: neither the status nor the log has it.
func TestC1BackgroundChildGoesOnWriting(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		for _, output := range []string{"Status", "Log"} {
			script := `(while [ ! -e /enough ]; do echo tick; date >> /alive; sleep 0.02; done; head -c 300000 /dev/zero; touch /written) & echo started`
			c := b.Start(bed.Annotations{bed.KeyPostStart: "{output: " + output + ", " + bed.Shell(script) + "}"}, bed.Forever)
			alive := linesOf(c, "alive")
			b.Poll("the background child after postStart's end", func() bool { return linesOf(c, "alive") > alive+10 })
			if got := backgroundOutputs(c); got != 1 {
				b.Errorf("output %s: the status reports %d outputs of background children", output, got)
			}
			b.WantCtl([]string{"postStart exec", "Succeeded (1 in background)"}, "status", c.ID)
			b.WantCtl([]string{"a process that the handler left in the background still has its output open"}, "logs", c.ID)
			c.Touch("enough")
			c.WaitFor("written")
			b.Poll("the end of the background child", func() bool { return backgroundOutputs(c) == 0 })
			if run := c.Runs()[0]; run.Result != "Succeeded" || strings.Contains(run.Output, "\x00") || !strings.Contains(run.Output, "started") {
				b.Errorf("output %s: the status has %+v", output, run)
			}
			if log := bed.ReadFile(b, "", c.OutputFile); strings.Contains(log, "\x00") || strings.Contains(log, "started") != (output == "Log") {
				b.Errorf("output %s: the container's log has %q", output, log)
			}
			c.End(137)
		}
	})
}

// FAULTS C1: at most 16 outputs are kept for background children; a 17th closes the
// oldest, whose process is ended when it writes again, and the shim says so.
func TestC1SeventeenthBackgroundOutputClosesTheOldest(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		// The first 16 attempts fail, and each leaves a child.
		script := `n=$(cat /attempts 2>/dev/null || echo 0); n=$((n+1)); echo $n > /attempts; ` +
			`(while sleep 0.02; do echo tick; echo $n >> /alive$n; done) & [ $n -ge 17 ]`
		c := b.Start(bed.Annotations{bed.KeyPostStart: "{retryPeriodSeconds: 1, timeoutSeconds: 100, " + bed.Shell(script) + "}"}, bed.Forever)
		first := linesOf(c, "alive1")
		for n := 2; n <= 17; n++ {
			name := fmt.Sprintf("alive%d", n)
			lines := linesOf(c, name)
			b.Poll("the child of attempt "+name, func() bool { return linesOf(c, name) > lines+3 })
		}
		if got := backgroundOutputs(c); got != 16 {
			b.Errorf("the status reports %d outputs", got)
		}
		if now := linesOf(c, "alive1"); now > first+3 {
			b.Errorf("the oldest child has written %d lines since its output was closed", now-first)
		}
		if log := b.Daemon.Log()[b.LogStart:]; strings.Count(log, "cannot keep all outputs open") != 1 {
			b.Error("the log does not say once that the oldest output is closed")
		}
		c.End(137)
	})
}

// docs/spec.md#background, docs/spec.md#no-leak: children that write for ever cost the shim little, and nothing is
// left of their outputs when the container is gone.
func TestBackgroundChildrenCostLittle(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		p := b.NewGroup()
		c := b.Start(bed.Annotations{bed.KeyPostStart: bed.Shell("yes & yes & yes &")}, bed.Obedient, p.Member)
		c.WaitFor("ready")
		const period = 2 * time.Second
		before := processorTime(p)
		<-time.After(period) // what is measured is the time that it uses; nothing is waited for
		used := processorTime(p) - before
		if b.Logf("the shim has used %s of a processor in %s", used, period); used > period/10 {
			b.Errorf("the shim has used %s of a processor in %s", used, period)
		}
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		c.DeleteTask()
		p.WantUnharmed()
	})
}

// processorTime that the shim has used, proc_pid_stat(5).
func processorTime(p *bed.Group) time.Duration {
	p.B.Helper()
	stat := bed.ReadFile(p.B, "/proc", fmt.Sprintf("%d/stat", p.Shim.PID))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	var ticks [2]int64
	for i, field := range fields[14-3 : 16-3] { // utime and stime; the first field here is (3)
		if _, err := fmt.Sscan(field, &ticks[i]); err != nil {
			p.B.Fatal(err)
		}
	}
	const tick = 10 * time.Millisecond // USER_HZ
	return time.Duration(ticks[0]+ticks[1]) * tick
}
