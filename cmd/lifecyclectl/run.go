package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

func newRun(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "run ID|PREFIX preStart|postStart|preStop|onExit",
		Short: "Try a handler in a running container, without starting or stopping it",
		Long: `Try a handler in a running container, without starting or stopping it.

The handler runs as in a real start or stop, with its own time limit or else DefaultPostStartTimeout.
Unlike in reality, preStart and onExit run beside the entrypoint; LIFECYCLE_RESULT is "completed".
The handler is aborted by ^C, when the container exits, and when a stop of the container begins.`,
		Args:      cobra.ExactArgs(2),
		ValidArgs: oci.Handlers,
		RunE: func(cmd *cobra.Command, args []string) error {
			shim, container, err := one(cmd.Context(), o, args[0])
			if err != nil {
				return err
			}
			response, err := shim.service().Run(cmd.Context(), &lifecyclev1.RunRequest{Id: container.Id, Handler: args[1]})
			switch {
			case cmd.Context().Err() != nil:
				return errors.New("interrupted: the handler was aborted")
			case err != nil:
				return errors.New(status.Convert(err).Message())
			}
			if response.Run == nil {
				return fmt.Errorf("cannot show the result: shim %d answered without one; `lifecyclectl status` may list the run", shim.pid)
			}
			if err := printOutput(outOf(cmd), response.Run); err != nil {
				return err
			}
			if response.Run.Result != "Succeeded" {
				return fmt.Errorf("%s of container %s: %s after %s: %s", args[1], container.Id, response.Run.Result,
					response.Run.Took.AsDuration().Round(time.Millisecond), response.Run.Error)
			}
			return nil
		},
	}
}

func newLogs(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "logs ID|PREFIX",
		Short: "Show the output of a container's handlers",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, container, err := one(cmd.Context(), o, args[0])
			if err != nil {
				return err
			}
			if len(container.Runs) == 0 {
				return fmt.Errorf("no handler of container %s has run yet: its phase is %s", container.Id, container.Phase)
			}
			for _, run := range container.Runs {
				if err := printRun(outOf(cmd), run); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func printRun(out io.Writer, run *lifecyclev1.HandlerRun) error {
	result := run.Result
	if result == "" {
		result = "running"
	}
	if run.Error != "" {
		result += ", " + run.Error
	}
	if _, err := fmt.Fprintf(out, "==> %s, %s %s: %s after %s\n", oneLine(run.Handler), oneLine(run.Type), oneLine(run.Action), oneLine(result),
		run.Took.AsDuration().Round(time.Millisecond)); err != nil {
		return err
	}
	return printOutput(out, run)
}

func printOutput(out io.Writer, run *lifecyclev1.HandlerRun) error {
	if run.DroppedBytes > 0 {
		if _, err := fmt.Fprintf(out, "[%d bytes dropped]\n", run.DroppedBytes); err != nil {
			return err
		}
	}
	text := run.Output
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if run.LogError != "" {
		text += fmt.Sprintf("[%d lines are not in the container's log: %s]\n", run.LostLines, oneLine(run.LogError))
	}
	if run.BackgroundOutputs > 0 {
		text += "[a process that the handler left in the background still has its output open: everything that it writes now is dropped]\n"
	}
	_, err := io.WriteString(out, text)
	return err
}
