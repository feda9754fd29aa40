package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/lab/bench/report"
)

const (
	// settled is from the last start to the look at the shims: Go gives memory back in the background.
	settled = 5 * time.Second
	// long is a command that runs until it is killed.
	longSeconds = "100000"
)

// longHandlers have a postStart that has ended, and a preStop that runs until SIGKILL: outside CRI the shim ends it at the deadline.
var longHandlers = map[string]string{
	"lifecycle-shim.io/lifecycle": `{"postStart": {"exec": {"command": ["` + noop + `"]}},
		"preStop": {"exec": {"command": ["/bin/sleep", "` + longSeconds + `"]}}, "terminationGracePeriodSeconds": 3600}`,
}

func memoryPlans(quick bool) []plan {
	counts := []int{1, 10, 100}
	if quick {
		counts = counts[:2]
	}
	var all []plan
	for _, count := range counts {
		all = append(all, plan{
			name: fmt.Sprintf("%s-%d", report.SceneMemory, count), measure: measureMemory, pods: count,
			title:  fmt.Sprintf("pods side by side: %d of ours, %[1]d of the stock shim, %v after the last start; a round is a pair", count, settled),
			rounds: max(1, 5/count),
		})
	}
	return append(all, plan{
		name: report.SceneRunning, measure: measureRunning, pods: 10,
		title: "10 pods of each shim; ours have had a postStart handler and have a preStop handler; then each preStop runs, and an exec in each of stock's",
	})
}

// pair is a container of ours and one of the stock shim's.
type pair struct{ ours, stock *member }

type member struct {
	*harness.Container
	init int // process id
	shim int
}

// measureMemory looks at pairs of shims. Where there are few of them it makes them several times.
func measureMemory(ctx context.Context, s *site, p plan, scene *report.Scene) error {
	for range p.rounds {
		if err := s.withPairs(ctx, p.pods, nil, func(pairs []pair) error {
			return look(pairs, scene, []string{report.OursPSS, report.OursPrivate}, []string{report.StockPSS, report.StockPrivate})
		}); err != nil {
			return err
		}
	}
	return nil
}

// measureRunning looks before and while handlers run.
func measureRunning(ctx context.Context, s *site, p plan, scene *report.Scene) error {
	return s.withPairs(ctx, p.pods, longHandlers, func(pairs []pair) error {
		if err := look(pairs, scene, []string{report.OursPSS, report.OursPrivate}, []string{report.StockPSS, report.StockPrivate}); err != nil {
			return err
		}
		for _, pair := range pairs {
			if err := s.runLong(ctx, pair); err != nil {
				return err
			}
		}
		if err := idle(ctx, settled); err != nil {
			return err
		}
		return look(pairs, scene, []string{report.RunningOursPSS, report.RunningOursOwn}, []string{report.RunningStockPSS, report.RunningStockOwn})
	})
}

// runLong starts a preStop handler that does not end, and an exec that does not.
func (s *site) runLong(ctx context.Context, p pair) error {
	if _, err := p.ours.Kill(ctx, syscall.SIGTERM); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	process, err := s.process(ctx, p.stock.ID, "/bin/sleep", longSeconds)
	if err != nil {
		return err
	}
	id, service := s.nextID("e"), s.client.TaskService()
	if _, err := service.Exec(s.client.Context(ctx), &tasks.ExecProcessRequest{ContainerID: p.stock.ID, ExecID: id, Spec: process}); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	if _, err := service.Start(s.client.Context(ctx), &tasks.StartRequest{ContainerID: p.stock.ID, ExecID: id}); err != nil {
		return fmt.Errorf("start of the exec: %w", err)
	}
	return nil
}

// withPairs makes pairs, in turns, lets them settle, and removes them when do has returned.
func (s *site) withPairs(ctx context.Context, count int, annotations map[string]string, do func([]pair) error) (err error) {
	var all []*harness.Container
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.Remove(context.WithoutCancel(ctx)))
		}
	}()
	start := func(runtime string, annotations map[string]string) (*member, error) {
		c, err := s.container(ctx, s.client, runtime, circumstances{}, nil, annotations)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
		pid, _, err := c.Run(ctx)
		return &member{Container: c, init: int(pid)}, err
	}
	pairs := make([]pair, count)
	for i := range pairs {
		if pairs[i].ours, err = start(oursRuntime, annotations); err != nil {
			return err
		}
		if pairs[i].stock, err = start(harness.StockRuntime, nil); err != nil {
			return err
		}
	}
	if err := s.findShims(pairs); err != nil {
		return err
	}
	if err := idle(ctx, settled); err != nil {
		return err
	}
	return do(pairs)
}

// findShims fills in the process ids of the shims, which containerd starts with -id.
func (s *site) findShims(pairs []pair) error {
	shims, err := s.daemon.Shims()
	if err != nil {
		return err
	}
	byID := map[string]int{}
	for _, shim := range shims {
		if i := slices.Index(shim.Cmdline, "-id"); i >= 0 && i+1 < len(shim.Cmdline) {
			byID[shim.Cmdline[i+1]] = shim.PID
		}
	}
	for _, pair := range pairs {
		for _, m := range []*member{pair.ours, pair.stock} {
			if m.shim = byID[m.ID]; m.shim == 0 {
				return fmt.Errorf("no shim of container %s among %d", m.ID, len(shims))
			}
		}
	}
	return nil
}

// look adds the memory of each pair to series for PSS and for private memory.
func look(pairs []pair, scene *report.Scene, ours, stock []string) error {
	for _, pair := range pairs {
		for m, names := range map[*member][]string{pair.ours: ours, pair.stock: stock} {
			pss, private, err := m.memory()
			if err != nil {
				return err
			}
			scene.Add(map[string]float64{names[0]: pss, names[1]: private})
		}
	}
	return nil
}

// memory of the shim and of all that it has started, but for the container's own processes, in MB: a helper that stays beside a
// shim is part of its price, and so is a handler, or an exec.
func (m *member) memory() (pss, private float64, err error) {
	processes, err := below(m.shim, m.init)
	for _, pid := range processes {
		p, own, err := rollup(pid)
		if err != nil {
			return 0, 0, err
		}
		pss, private = pss+p, private+own
	}
	return pss, private, err
}

// below lists a process and its descendants, without the process but and those below it.
func below(pid, but int) ([]int, error) {
	all := []int{pid}
	process, err := harness.ProcessByID(pid)
	if err != nil {
		return nil, err
	}
	children, err := process.Children()
	if err != nil {
		return nil, err
	}
	for _, child := range children {
		if child.PID == but {
			continue
		}
		more, err := below(child.PID, but)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// rollup reads PSS and private memory of a process, in MB.
func rollup(pid int) (pss, private float64, err error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(value)
		if len(fields) != 2 || fields[1] != "kB" {
			continue
		}
		kilobytes, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return 0, 0, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		switch key {
		case "Pss":
			pss += kilobytes * 1024 / 1e6
		case "Private_Clean", "Private_Dirty":
			private += kilobytes * 1024 / 1e6
		}
	}
	return pss, private, nil
}
