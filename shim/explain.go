package shim

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/log"

	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// explain tells the log, for debugging, what the machine makes of an event, and
// why: one line for each, also where nothing follows from it. It tells nothing of a
// handler's output, and costs nothing where nobody debugs.
func (c *container) explain(event lifecycle.Event, before, after lifecycle.Status, effects []lifecycle.Effect) {
	if !debugging(c.ctx) {
		return
	}
	fields := log.Fields{
		"event": event.Kind.String(), "from": before.Stage.String(), "state": after.Stage.String(), "why": c.machine.Why(),
		"effects": list(effects),
	}
	switch event.Kind {
	case lifecycle.KillRequested:
		fields["signal"] = event.Signal.Number
	case lifecycle.HandlerEnded:
		fields["result"] = event.Result.Outcome.String()
	}
	if event.Err != nil {
		fields["error"] = event.Err.Error()
	}
	if !after.Deadline.IsZero() {
		fields["deadline"] = after.Deadline.Format(time.RFC3339Nano)
	}
	for _, effect := range effects {
		if effect.Kind == lifecycle.RunHandler {
			fields["owner"] = effect.LimitOwner.String()
			if !effect.Limit.IsZero() {
				fields["limit"] = effect.Limit.Format(time.RFC3339Nano)
			}
		}
	}
	log.G(c.ctx).WithFields(fields).Debug("lifecycle")
}

func debugging(ctx context.Context) bool {
	return log.G(ctx).Logger.IsLevelEnabled(log.DebugLevel)
}

func list(effects []lifecycle.Effect) string {
	words := make([]string, len(effects))
	for i, effect := range effects {
		words[i] = effect.String()
	}
	return strings.Join(words, ", ")
}
