package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

func newStatus(o *options) *cobra.Command {
	var (
		format string
		watch  bool
	)
	command := &cobra.Command{
		Use:   "status [ID|PREFIX]",
		Short: "List the containers with handlers and the runs of their handlers",
		Long: `List the containers with handlers and the runs of their handlers.

PHASE is the stage of the container (docs/lifecycle.md). ENDS says when the handler is ended and who set that limit. MESSAGE says why a
handler did not succeed, with its last output, or why one that still runs was aborted.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := strings.Join(args, "")
			print, err := printerOf(format)
			if err != nil {
				return err
			}
			if !watch {
				return showStatus(cmd.Context(), outOf(cmd), cmd.ErrOrStderr(), o, prefix, print)
			}
			return watchStatus(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o, prefix, print)
		},
	}
	command.Flags().StringVarP(&format, "output", "o", "table", "table, json or yaml")
	command.Flags().BoolVarP(&watch, "watch", "w", false, "refresh every second")
	return command
}

// place is a container with its namespace.
type place struct {
	namespace string
	status    *lifecyclev1.ContainerStatus
}

// showStatus prints the container with that id, or else those whose id has that prefix.
// Shims that do not answer are reported on stderr, and the others are still shown.
func showStatus(ctx context.Context, out, errOut io.Writer, o *options, prefix string, print printer) error {
	if os.Geteuid() != 0 {
		return errRootOnly
	}
	shims, silent := askAll(ctx, o, prefix)
	defer closeAll(shims)
	if silent != nil {
		fmt.Fprintln(errOut, "lifecyclectl:", silent)
	}
	for _, s := range shims {
		if err := s.limits(); err != nil {
			fmt.Fprintln(errOut, "lifecyclectl:", err)
		}
	}
	places := meant(shims, prefix)
	if len(places) == 0 && prefix != "" {
		return o.noSuch(prefix)
	}
	return print(out, shimsOf(shims, prefix), places)
}

// shimsOf returns the shims of the containers that are shown, sorted by pid. Without a prefix
// it returns all shims.
func shimsOf(shims []*shim, prefix string) []*shim {
	shown := slices.DeleteFunc(slices.Clone(shims), func(s *shim) bool { return prefix != "" && len(meant([]*shim{s}, prefix)) == 0 })
	slices.SortFunc(shown, func(a, b *shim) int { return cmp.Compare(a.pid, b.pid) })
	return shown
}

// meant returns the container with that id, or else those whose id has that prefix, sorted.
func meant(shims []*shim, prefix string) []place {
	var places, exact []place
	for _, s := range shims {
		for _, container := range s.containers {
			if container.Id == prefix {
				exact = append(exact, place{s.namespace, container})
			}
			if strings.HasPrefix(container.Id, prefix) {
				places = append(places, place{s.namespace, container})
			}
		}
	}
	if len(exact) > 0 {
		places = exact
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.status.Id, b.status.Id))
	})
	return places
}

const watchPeriod = time.Second

func watchStatus(ctx context.Context, out, errOut io.Writer, o *options, prefix string, print printer) error {
	ticker := time.NewTicker(watchPeriod)
	defer ticker.Stop()
	for {
		if isTerminal(out) {
			fmt.Fprint(out, "\x1b[H\x1b[2J") // clears the screen
		}
		if err := showStatus(ctx, terminal{out}, errOut, o, prefix, print); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// printer writes containers in one of the formats, and their shims if the format has them.
type printer func(io.Writer, []*shim, []place) error

func printerOf(format string) (printer, error) {
	switch format {
	case "table":
		return printTable, nil
	case "json":
		return printJSON, nil
	case "yaml":
		return printYAML, nil
	}
	return nil, fmt.Errorf("--output %q is not known: use table, json or yaml", format)
}

// printTable prints a row for each run, in the order of the runs.
func printTable(out io.Writer, _ []*shim, places []place) error {
	if len(places) == 0 {
		_, err := fmt.Fprintln(out, "no containers with handlers")
		return err
	}
	var text bytes.Buffer
	colours := []string{""} // one per line; the first line has the names of the columns
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAMESPACE\tCONTAINER\tPHASE\tHANDLER\tRESULT\tTOOK\tATTEMPTS\tENDS\tMESSAGE")
	for _, place := range places {
		phase := place.status.Phase
		if place.status.PendingSignal != 0 {
			phase += fmt.Sprintf(" (%s waits)", signalName(place.status.PendingSignal))
		}
		if len(place.status.Runs) == 0 {
			colours = append(colours, "")
			fmt.Fprintf(table, "%s\t%s\t%s\t-\t-\t-\t-\t-\t-\n", oneLine(place.namespace), oneLine(place.status.Id), oneLine(phase))
		}
		for _, run := range place.status.Runs {
			colours = append(colours, colourOf(run))
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", oneLine(place.namespace), oneLine(place.status.Id), oneLine(phase), oneLine(handlerOf(run)),
				oneLine(resultOf(run)), run.Took.AsDuration().Round(time.Millisecond), run.Attempts, oneLine(endsOf(run)), lastWords(run))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return writeLines(out, text.String(), colours)
}

func handlerOf(run *lifecyclev1.HandlerRun) string {
	text := run.Handler + " " + run.Type
	if run.Trial {
		text += " (trial)"
	}
	return text
}

// resultOf also counts the processes that the handler left in the background and that still
// have its output open.
func resultOf(run *lifecyclev1.HandlerRun) string {
	text := cmp.Or(run.Result, "running")
	if run.BackgroundOutputs > 0 {
		text += fmt.Sprintf(" (%d in background)", run.BackgroundOutputs)
	}
	return text
}

// endsOf returns the time that a handler has left, and who set the limit.
func endsOf(run *lifecyclev1.HandlerRun) string {
	switch {
	case run.FinishedAt != nil:
		return "-"
	case run.Deadline == nil:
		return cmp.Or(run.DeadlineOwner, "never") + " decides"
	}
	return fmt.Sprintf("in %s (%s)", time.Until(run.Deadline.AsTime()).Round(time.Second), run.DeadlineOwner)
}

// maxWords bounds the last column, in runes.
const maxWords = 60

// lastWords returns the error and the last line of the output.
func lastWords(run *lifecyclev1.HandlerRun) string {
	lines := strings.Split(strings.TrimSpace(run.Output), "\n")
	words := strings.TrimSpace(lines[len(lines)-1])
	if run.Error != "" {
		words = strings.TrimSuffix(run.Error+": "+words, ": ")
	}
	words = oneLine(words)
	if runes := []rune(words); len(runes) > maxWords {
		words = string(runes[:maxWords-1]) + "…"
	}
	return cmp.Or(words, "-")
}

func signalName(number uint32) string {
	return cmp.Or(unix.SignalName(unix.Signal(number)), fmt.Sprintf("signal %d", number))
}

// document is what json and yaml show: the messages of the status service, each with its
// namespace. Shims of builds that do not report their own process are left out.
func document(shims []*shim, places []place) (map[string]any, error) {
	containers, processes := []any{}, []any{}
	for _, place := range places {
		shown, err := decoded(place.status, place.namespace)
		if err != nil {
			return nil, err
		}
		containers = append(containers, shown)
	}
	for _, s := range shims {
		if s.process == nil {
			continue
		}
		shown, err := decoded(s.process, s.namespace)
		if err != nil {
			return nil, err
		}
		processes = append(processes, shown)
	}
	return map[string]any{"containers": containers, "shims": processes}, nil
}

func decoded(message proto.Message, namespace string) (map[string]any, error) {
	encoded, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	shown := map[string]any{}
	if err := json.Unmarshal(encoded, &shown); err != nil {
		return nil, err
	}
	shown["namespace"] = namespace
	return shown, nil
}

func printJSON(out io.Writer, shims []*shim, places []place) error {
	shown, err := document(shims, places)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(shown)
}

func printYAML(out io.Writer, shims []*shim, places []place) error {
	shown, err := document(shims, places)
	if err != nil {
		return err
	}
	encoder := yaml.NewEncoder(out)
	encoder.SetIndent(2)
	return encoder.Encode(shown)
}
