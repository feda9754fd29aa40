package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// backgroundOutputs of the container's first run, as the status reports them.
func (c *container) backgroundOutputs() uint32 {
	c.b.Helper()
	var shown struct {
		Containers []struct {
			Runs []struct{ BackgroundOutputs uint32 }
		}
	}
	if err := json.Unmarshal([]byte(c.b.wantCtl(nil, "status", c.ID, "-o", "json")), &shown); err != nil {
		c.b.Fatal(err)
	}
	return shown.Containers[0].Runs[0].BackgroundOutputs
}

// lines of a file in the container.
func (c *container) lines(name string) int {
	c.b.Helper()
	if !c.exists(name) {
		return 0
	}
	return strings.Count(c.read(name), "\n")
}

// FAULTS C1, docs/spec.md#background: what a handler leaves in the background goes on writing, also with
// output: Log, and neither a signal nor a full pipe ends it. The status reports it for as
// long as it is there. What it writes is nobody's: neither the status nor the log has it.
func TestC1BackgroundChildGoesOnWriting(t *testing.T) {
	on(t, targets, func(b *bench) {
		for _, output := range []string{"Status", "Log"} {
			script := `(while [ ! -e /enough ]; do echo tick; date >> /alive; sleep 0.02; done; head -c 300000 /dev/zero; touch /written) & echo started`
			c := b.run(with{keyPostStart: "{output: " + output + ", " + shell(script) + "}"}, forever)
			alive := c.lines("alive")
			b.poll("the background child after postStart's end", func() bool { return c.lines("alive") > alive+10 })
			if got := c.backgroundOutputs(); got != 1 {
				b.Errorf("output %s: the status reports %d outputs of background children", output, got)
			}
			b.wantCtl([]string{"postStart exec", "Succeeded (1 in background)"}, "status", c.ID)
			b.wantCtl([]string{"a process that it has left in the background holds its output"}, "logs", c.ID)
			c.touch("enough")
			c.waitFor("written")
			b.poll("the end of the background child", func() bool { return c.backgroundOutputs() == 0 })
			if run := c.runs()[0]; run.Result != "Succeeded" || strings.Contains(run.Output, "\x00") || !strings.Contains(run.Output, "started") {
				b.Errorf("output %s: the status has %+v", output, run)
			}
			if log := readFile(b, "", c.OutputFile); strings.Contains(log, "\x00") || strings.Contains(log, "started") != (output == "Log") {
				b.Errorf("output %s: the container's log has %q", output, log)
			}
			c.end(137)
		}
	})
}

// FAULTS C1: at most 16 outputs are kept for background children; a 17th closes the
// oldest, whose process is ended when it writes again, and the shim says so.
func TestC1SeventeenthBackgroundOutputClosesTheOldest(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		// The first 16 attempts fail, and each leaves a child.
		script := `n=$(cat /attempts 2>/dev/null || echo 0); n=$((n+1)); echo $n > /attempts; ` +
			`(while sleep 0.02; do echo tick; echo $n >> /alive$n; done) & [ $n -ge 17 ]`
		c := b.run(with{keyPostStart: "{retryPeriodSeconds: 1, timeoutSeconds: 100, " + shell(script) + "}"}, forever)
		first := c.lines("alive1")
		for n := 2; n <= 17; n++ {
			name := fmt.Sprintf("alive%d", n)
			lines := c.lines(name)
			b.poll("the child of attempt "+name, func() bool { return c.lines(name) > lines+3 })
		}
		if got := c.backgroundOutputs(); got != 16 {
			b.Errorf("the status reports %d outputs", got)
		}
		if now := c.lines("alive1"); now > first+3 {
			b.Errorf("the oldest child has written %d lines since its output was closed", now-first)
		}
		if log := b.daemon.Log()[b.logged:]; strings.Count(log, "the oldest output is closed") != 1 {
			b.Error("the log does not say once that the oldest output is closed")
		}
		c.end(137)
	})
}

// docs/spec.md#background, docs/spec.md#no-leak: children that write for ever cost the shim little, and nothing is
// left of their outputs when the container is gone.
func TestBackgroundChildrenCostLittle(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		p := b.newPod()
		c := b.run(with{keyPostStart: shell("yes & yes & yes &")}, obedient, p.member)
		c.waitFor("ready")
		const period = 2 * time.Second
		before := p.processorTime()
		<-time.After(period) // what is measured is the time that it uses; nothing is waited for
		used := p.processorTime() - before
		if b.Logf("the shim has used %s of a processor in %s", used, period); used > period/10 {
			b.Errorf("the shim has used %s of a processor in %s", used, period)
		}
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		c.delete()
		p.wantUnharmed()
	})
}

// processorTime that the shim has used, proc_pid_stat(5).
func (p *pod) processorTime() time.Duration {
	p.b.Helper()
	stat := readFile(p.b, "/proc", fmt.Sprintf("%d/stat", p.shim.PID))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	var ticks [2]int64
	for i, field := range fields[14-3 : 16-3] { // utime and stime; the first field here is (3)
		if _, err := fmt.Sscan(field, &ticks[i]); err != nil {
			p.b.Fatal(err)
		}
	}
	const tick = 10 * time.Millisecond // USER_HZ
	return time.Duration(ticks[0]+ticks[1]) * tick
}
