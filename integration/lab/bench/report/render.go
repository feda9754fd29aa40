package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteText writes the rows for a terminal.
func (r *Report) WriteText(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SCENE\tRATIO\tMEDIAN\tQUARTILES\tMIN\tN\tTARGET\tAIM\tMET")
	for _, row := range r.Ratios() {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s to %s\t%s\t%d\t%s\t%s\t%s\n", row.Scene, row.What,
			number(row.Median), number(row.Q1), number(row.Q3), number(row.Min), row.N, limit(row.Target), limit(row.Beyond), row.met())
	}
	return table.Flush()
}

// Markdown returns all tables.
func (r *Report) Markdown() string {
	var b strings.Builder
	r.machineTo(&b)
	b.WriteString("\n### Targets\n\nMedians of the ratios of single rounds. Lower is better.\n\n")
	b.WriteString("| what | where | median | quartiles | min | rounds | target | aim | met |\n|---|---|---|---|---|---|---|---|---|\n")
	rows := r.Ratios()
	for _, row := range rows {
		if row.Target > 0 {
			fmt.Fprintf(&b, "| %s | %s | **%s** | %s to %s | %s | %d | ≤ %s | ≤ %s | %s |\n", row.What, row.Scene, number(row.Median),
				number(row.Q1), number(row.Q3), number(row.Min), row.N, limit(row.Target), limit(row.Beyond), row.met())
		}
	}
	for _, scene := range r.Scenes {
		r.sceneTo(&b, scene, rows)
	}
	return b.String()
}

func (r *Report) machineTo(b *strings.Builder) {
	m := r.Machine
	fmt.Fprintf(b, "Measured %s in %v, with commit %s, on %d × %s, %.0f GB, Linux %s, cgroup %s. ", r.Began.UTC().Format("2006-01-02"),
		(time.Duration(r.Seconds) * time.Second).String(), m.Commit, m.CPUs, m.CPU, float64(m.Memory)/1e9, m.Kernel, m.Cgroups)
	fmt.Fprintf(b, "The load average of one minute was %.2f before and %.2f after.\n\n", m.LoadBefore, m.LoadAfter)
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		fmt.Fprintf(b, "- %s: %s\n", name, m.Versions[name])
	}
}

// sceneTo shows the values of a scene, and its ratios that have no target.
func (r *Report) sceneTo(b *strings.Builder, scene *Scene, rows []Row) {
	fmt.Fprintf(b, "\n### %s: %s\n\n", scene.Name, scene.Title)
	fmt.Fprintf(b, "| %s | min | quartiles | median | rounds |\n|---|---|---|---|---|\n", scene.Unit)
	for _, name := range slices.Sorted(maps.Keys(scene.Series)) {
		s := Summarize(scene.Series[name])
		fmt.Fprintf(b, "| %s | %s | %s to %s | %s | %d |\n", name, number(s.Min), number(s.Q1), number(s.Q3), number(s.Median), s.N)
	}
	first := true
	for _, row := range rows {
		if row.Scene != scene.Name || row.Target > 0 {
			continue
		}
		if first {
			b.WriteString("\n| ratio | median | quartiles | min |\n|---|---|---|---|\n")
			first = false
		}
		fmt.Fprintf(b, "| %s | %s | %s to %s | %s |\n", row.What, number(row.Median), number(row.Q1), number(row.Q3), number(row.Min))
	}
}

// met in words: a missed target is no error, the machine may be to blame.
func (r Row) met() string {
	switch {
	case r.Target == 0:
		return ""
	case !r.Met:
		return "**no**"
	case r.Median <= r.Beyond:
		return "yes, and the aim"
	default:
		return "yes"
	}
}

func limit(value float64) string {
	if value == 0 {
		return ""
	}
	return fmt.Sprintf("%g", value)
}

// number has three digits or so.
func number(value float64) string {
	switch {
	case value >= 100 || value <= -100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10 || value <= -10:
		return fmt.Sprintf("%.1f", value)
	case value > 0.9 && value < 1.1: // where many targets are
		return fmt.Sprintf("%.3f", value)
	default:
		return fmt.Sprintf("%.2f", value)
	}
}
