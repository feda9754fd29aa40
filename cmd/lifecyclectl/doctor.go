package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/doctor"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

func newDoctor(o *options) *cobra.Command {
	var format, handler string
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Check that this node can run handlers, and say how to fix it if not",
		Long: "Check that this node can run handlers, and say how to fix it if not.\n\n" +
			"It checks every running containerd, or the one at --address: its version, the programs on its PATH, its CRI runtime\n" +
			"handler, the settings. It changes nothing. The exit status is 1 if there is a fault, 0 if there are only notes.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("--output %q is not known: use table or json", format)
			}
			shims, err := shimsByAddress()
			if err != nil {
				return err
			}
			facts := doctor.Gather(cmd.Context(), doctor.Machine{
				Address: o.address, Handler: handler, Version: version.Version, Shims: shims,
			})
			findings := doctor.Check(facts)
			print := printFindings
			if format == "json" {
				print = printFindingsJSON
			}
			if err := print(outOf(cmd), facts, findings); err != nil {
				return err
			}
			return faults(findings)
		},
	}
	command.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	command.Flags().StringVar(&handler, "handler", "lifecycle", "CRI runtime handler, which the RuntimeClass names")
	return command
}

// shimsByAddress returns the pids of the running shims by their containerd's socket.
func shimsByAddress() (map[string][]int, error) {
	found, err := findShims(&options{})
	pids := map[string][]int{}
	for _, shim := range found {
		pids[shim.address] = append(pids[shim.address], shim.pid)
	}
	return pids, err
}

// faults returns an error if there are faults among the findings.
func faults(findings []doctor.Finding) error {
	count := 0
	for _, finding := range findings {
		if finding.Level == doctor.Fault {
			count++
		}
	}
	switch count {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("this node has 1 fault: see its cure above")
	}
	return fmt.Errorf("this node has %d faults: see their cures above", count)
}

func printFindings(out io.Writer, facts doctor.Facts, findings []doctor.Finding) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range facts.Containerds {
		fmt.Fprintf(table, "containerd\t%s\tversion %s, process %d\n", c.Address, cmp.Or(c.Version, "unknown"), c.PID)
		for _, program := range []doctor.Program{c.Shim, c.Host, c.OCIRuntime} {
			if program.Path != "" {
				fmt.Fprintf(table, "\t%s\tversion %s\n", program.Path, cmp.Or(program.Version, "unknown"))
			}
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, finding := range findings {
		fmt.Fprintf(out, "\n%s  %s", finding.Level, finding.Check)
		if finding.Where != "" {
			fmt.Fprintf(out, "  %s", finding.Where)
		}
		fmt.Fprintf(out, "\n  %s\n", finding.Message)
		if finding.Cure != "" {
			fmt.Fprintf(out, "  cure: %s\n", finding.Cure)
		}
	}
	if faults(findings) == nil {
		fmt.Fprintln(out, "\nno fault found")
	}
	return nil
}

func printFindingsJSON(out io.Writer, facts doctor.Facts, findings []doctor.Finding) error {
	type program struct {
		Path    string `json:"path"`
		Version string `json:"version"`
	}
	type containerd struct {
		Address string  `json:"address"`
		PID     int     `json:"pid"`
		Version string  `json:"version"`
		Shim    program `json:"shim"`
		Host    program `json:"hookexec"`
		Runtime program `json:"ociRuntime"`
	}
	shown := struct {
		Version     string           `json:"version"`
		Containerds []containerd     `json:"containerds"`
		Findings    []doctor.Finding `json:"findings"`
	}{facts.Version, []containerd{}, append([]doctor.Finding{}, findings...)}
	for _, c := range facts.Containerds {
		of := func(p doctor.Program) program { return program{p.Path, p.Version} }
		shown.Containerds = append(shown.Containerds, containerd{c.Address, c.PID, c.Version, of(c.Shim), of(c.Host), of(c.OCIRuntime)})
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(shown)
}
