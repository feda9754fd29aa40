package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/node"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/doctor"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

func newNodeStatus() *cobra.Command {
	f := &nodeFlags{}
	command := &cobra.Command{
		Use:   "status",
		Short: "Show whether this build is installed on this node",
		Long: `Show whether this build is installed on this node: all files are as it would write them, and containerd has loaded the
runtime handler. Pass the flags of the installation. It changes nothing. The exit status is 1 if it is not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.read()
			if err != nil {
				return err
			}
			status := node.GetStatus(cmd.Context(), o)
			if f.format == "json" {
				if err := encodeJSON(outOf(cmd), status); err != nil {
					return err
				}
			} else if status.Current {
				fmt.Fprintln(outOf(cmd), "installed and current")
			}
			if !status.Current {
				return errors.New("this node is not current: " + status.Reason)
			}
			return nil
		},
	}
	f.add(command)
	f.addInstall(command)
	return command
}

// nodeCheck is what `node check` prints as JSON.
type nodeCheck struct {
	OK       bool             `json:"ok"`
	Findings []doctor.Finding `json:"findings"`
	SelfTest node.SelfTest    `json:"selfTest"`
}

func newNodeCheck(o *options) *cobra.Command {
	f := &nodeFlags{}
	command := &cobra.Command{
		Use:   "check",
		Short: "Check this node, and run a container with all four handlers",
		Long: `Check this node like doctor, and run a container with the handlers preStart, postStart, preStop and onExit on it.

The container is in a containerd namespace that is made for it, needs no image, and is removed after it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options, err := f.read()
			if err != nil {
				return err
			}
			check, facts, err := o.checkNode(cmd, options)
			if err != nil {
				return err
			}
			return check.print(outOf(cmd), f.format, facts)
		},
	}
	f.add(command)
	return command
}

// checkNode checks the containerd that an installation would choose, or the one at --address.
func (o *options) checkNode(cmd *cobra.Command, options node.Options) (nodeCheck, doctor.Facts, error) {
	address := o.address
	if address == "" {
		var err error
		if address, err = node.Address(cmd.Context(), options); err != nil {
			return nodeCheck{}, doctor.Facts{}, err
		}
	}
	shims, err := shimsByAddress()
	if err != nil {
		return nodeCheck{}, doctor.Facts{}, err
	}
	facts := doctor.Gather(cmd.Context(), doctor.Machine{Address: address, Handler: "lifecycle", Version: version.Version, Shims: shims})
	check := nodeCheck{Findings: append([]doctor.Finding{}, doctor.Check(facts)...)}
	if err := faults(check.Findings); err != nil {
		check.SelfTest.Message = "cannot run a container: " + err.Error()
		return check, facts, nil
	}
	check.SelfTest = node.RunSelfTest(cmd.Context(), facts.Containerds[0])
	check.OK = check.SelfTest.OK
	return check, facts, nil
}

func (c nodeCheck) print(out io.Writer, format string, facts doctor.Facts) error {
	if format == "json" {
		if err := encodeJSON(out, c); err != nil {
			return err
		}
	} else {
		if err := printFindings(out, facts, c.Findings); err != nil {
			return err
		}
		if c.SelfTest.OK {
			fmt.Fprintf(out, "a container with all four handlers ran in %d ms\n", c.SelfTest.Milliseconds)
		}
	}
	if !c.OK {
		return errors.New("this node is not ready: " + strings.TrimSpace(c.SelfTest.Message))
	}
	return nil
}

// newSelfTest is the process of the self test's container, and the program of its handlers. It is hidden.
func newSelfTest() *cobra.Command {
	return &cobra.Command{
		Use:    "self-test STAGE",
		Short:  "Be the process or a handler in the container of node check",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE:   func(cmd *cobra.Command, args []string) error { return node.SelfTestStage(cmd.Context(), args[0]) },
	}
}
