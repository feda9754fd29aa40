package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// defaultAddress is containerd's default.
const defaultAddress = "/run/containerd/containerd.sock"

// handlerTopics selects the shim's events on containerd's stream.
const handlerTopics = `topic~="^/lifecycle/handler-"`

func newEvents(o *options) *cobra.Command {
	var format string
	command := &cobra.Command{
		Use:   "events",
		Short: "Follow the handlers as they start and finish",
		Long: `Follow the handlers as they start and finish, on the stream of one containerd:
the one at --address or $CONTAINERD_ADDRESS, or else at ` + defaultAddress + `.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("--output %q is not known: use text or json", format)
			}
			address := cmp.Or(o.address, defaultAddress)
			server, err := trust.Server(cmd.Context(), address)
			if err != nil {
				return unreachable(address, status.Error(codes.Unavailable, err.Error()))
			}
			conn, err := server.Client(address)
			if err != nil {
				return err
			}
			defer conn.Close()
			filter := handlerTopics
			if o.namespace != "" {
				filter += fmt.Sprintf(",namespace==%q", o.namespace)
			}
			stream, err := eventsapi.NewEventsClient(conn).Subscribe(cmd.Context(), &eventsapi.SubscribeRequest{Filters: []string{filter}})
			if err != nil {
				return unreachable(address, err)
			}
			for {
				envelope, err := stream.Recv()
				switch {
				case cmd.Context().Err() != nil:
					return nil // ^C
				case errors.Is(err, io.EOF):
					return fmt.Errorf("cannot follow further events: the containerd at %s closed the stream", address)
				case err != nil:
					return unreachable(address, err)
				}
				if err := printEvent(outOf(cmd), envelope, format); err != nil {
					return err
				}
			}
		},
	}
	command.Flags().StringVarP(&format, "output", "o", "text", "text or json: one line for each event")
	return command
}

func unreachable(address string, err error) error {
	if status.Code(err) == codes.Unavailable {
		return fmt.Errorf("cannot reach a containerd at %s (--address or $CONTAINERD_ADDRESS names another): %s", address, status.Convert(err).Message())
	}
	return errors.New(status.Convert(err).Message())
}

func printEvent(out io.Writer, envelope *types.Envelope, format string) error {
	event, err := decode(envelope)
	if err != nil {
		return err
	}
	if format == "text" {
		_, err := fmt.Fprintf(out, "%s %s %s\n", envelope.Timestamp.AsTime().Local().Format(time.RFC3339), oneLine(envelope.Namespace), oneLine(sentence(event)))
		return err
	}
	encoded, err := protojson.Marshal(event)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(map[string]any{
		"timestamp": envelope.Timestamp.AsTime(), "namespace": envelope.Namespace, "topic": envelope.Topic, "event": json.RawMessage(encoded),
	})
}

func decode(envelope *types.Envelope) (proto.Message, error) {
	var event proto.Message = &lifecyclev1.HandlerStarted{}
	if envelope.Topic == "/lifecycle/handler-finished" {
		event = &lifecyclev1.HandlerFinished{}
	}
	if err := proto.Unmarshal(envelope.GetEvent().GetValue(), event); err != nil {
		return nil, fmt.Errorf("cannot decode event %s: %w", envelope.Topic, err)
	}
	return event, nil
}

func sentence(event proto.Message) string {
	switch e := event.(type) {
	case *lifecyclev1.HandlerStarted:
		return fmt.Sprintf("%s %s started (%s)%s", e.ContainerId, e.Handler, e.Type, onTrial(e.Trial))
	case *lifecyclev1.HandlerFinished:
		text := fmt.Sprintf("%s %s %s after %s", e.ContainerId, e.Handler, e.Result, e.Took.AsDuration().Round(time.Millisecond))
		if e.Attempts > 1 {
			text += fmt.Sprintf(", attempt %d", e.Attempts)
		}
		if e.Message != "" {
			text += ": " + e.Message
		}
		return text + onTrial(e.Trial)
	}
	return ""
}

func onTrial(trial bool) string {
	if trial {
		return " (trial)"
	}
	return ""
}
