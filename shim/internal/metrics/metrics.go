// Package metrics counts what handlers do, over all shims of a node, in one file in
// Prometheus' text format. A shim serves one pod and ends with it, so no shim has the
// node's counters, and Prometheus should not scrape a port of each pod's shim.
package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The series, without their labels.
const (
	Handlers      = "lifecycle_shim_handlers_total"
	Seconds       = "lifecycle_shim_handler_duration_seconds"
	StartsHeld    = "lifecycle_shim_starts_held_total"
	StartsDone    = "lifecycle_shim_starts_answered_total"
	StopsDelayed  = "lifecycle_shim_stops_delayed_total"
	StopsSignaled = "lifecycle_shim_stops_signaled_total"
	Deadlines     = "lifecycle_shim_deadlines_total"
	Kills         = "lifecycle_shim_sigkills_total"
)

// families in the order of the file.
var families = []struct{ name, kind, help string }{
	{Handlers, "counter", "Handlers that have ended."},
	{Seconds, "histogram", "How long handlers took."},
	{StartsHeld, "counter", "Starts that were held for a preStart or postStart. Less the answered ones, they are held now."},
	{StartsDone, "counter", "Held starts that were answered."},
	{StopsDelayed, "counter", "Stops that were delayed for a preStop. Less the signaled ones, they are pending now."},
	{StopsSignaled, "counter", "Delayed stops that are over: the signal was sent, or no process was left to get it."},
	{Deadlines, "counter", "Handlers that were ended because their time was up."},
	{Kills, "counter", "SIGKILLs that the shim has sent by itself."},
}

// Counts are what is added to series, by name and labels.
type Counts map[string]float64

// Series returns the name of a series with its labels, given as pairs of name and value.
func Series(name string, labels ...string) string {
	if len(labels) == 0 {
		return name
	}
	var pairs []string
	for pair := range slices.Chunk(labels, 2) {
		pairs = append(pairs, fmt.Sprintf("%s=%q", pair[0], pair[1]))
	}
	return name + "{" + strings.Join(pairs, ",") + "}"
}

// buckets of the histogram, in seconds: from a handler that does nothing to the
// kubelet's limit of a start.
var buckets = []float64{0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120}

// Observe adds a handler's duration.
func (c Counts) Observe(handler string, took time.Duration) {
	for _, bucket := range buckets {
		added := 0.0
		if took.Seconds() <= bucket {
			added = 1
		}
		c[Series(Seconds+"_bucket", "handler", handler, "le", strconv.FormatFloat(bucket, 'g', -1, 64))] += added
	}
	c[Series(Seconds+"_bucket", "handler", handler, "le", "+Inf")]++
	c[Series(Seconds+"_sum", "handler", handler)] += took.Seconds()
	c[Series(Seconds+"_count", "handler", handler)]++
}

// Add adds counts to those in the file, and creates the file if it does not exist. The
// shims of a node take turns (a lock beside the file). A reader finds the file as it was
// before or as it is after. Series that cannot be parsed begin at 0 again.
func Add(path string, counts Counts) error {
	// No link: in a directory that others can write to it could create a file anywhere.
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	sum := parse(text)
	for series, count := range counts {
		sum[series] += count
	}
	return replace(path, sum.text())
}

// parse returns the counts of the lines that Add has written, and skips all others.
func parse(text []byte) Counts {
	counts := Counts{}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		space := bytes.LastIndexByte(line, ' ')
		if space < 0 || line[0] == '#' || !bytes.HasPrefix(line, []byte("lifecycle_shim_")) {
			continue
		}
		if value, err := strconv.ParseFloat(string(line[space+1:]), 64); err == nil {
			counts[string(line[:space])] = value
		}
	}
	return counts
}

func (c Counts) text() []byte {
	names := make([]string, 0, len(c))
	for name := range c {
		names = append(names, name)
	}
	slices.SortFunc(names, compare)
	var out bytes.Buffer
	for _, family := range families {
		fmt.Fprintf(&out, "# HELP %s %s\n# TYPE %s %s\n", family.name, family.help, family.name, family.kind)
		for _, name := range names {
			if bare, _, _ := strings.Cut(name, "{"); bare == family.name || strings.HasPrefix(bare, family.name+"_") {
				fmt.Fprintf(&out, "%s %s\n", name, strconv.FormatFloat(c[name], 'g', -1, 64))
			}
		}
	}
	return out.Bytes()
}

// compare keeps a histogram's buckets in the order of their bounds.
func compare(a, b string) int {
	bare := func(name string) (string, float64) {
		before, bound, found := strings.Cut(name, `le="`)
		if !found {
			return name, 0
		}
		value, _ := strconv.ParseFloat(strings.TrimSuffix(bound, `"}`), 64) // +Inf too
		return before, value
	}
	nameA, boundA := bare(a)
	nameB, boundB := bare(b)
	if order := strings.Compare(nameA, nameB); order != 0 {
		return order
	}
	switch {
	case boundA < boundB:
		return -1
	case boundA > boundB:
		return 1
	}
	return 0
}

func replace(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".lifecycle-shim-*")
	if err != nil {
		return err
	}
	_, writeErr := file.Write(text)
	err = errors.Join(writeErr, file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}
