package node

import (
	"context"
	"fmt"
)

// Status is whether the node is as an installation by this build would leave it.
type Status struct {
	Installed bool `json:"installed"`
	// Current is set if all files are as this build would write them, and containerd has loaded the handler.
	Current bool `json:"current"`
	// Reason says why it is not.
	Reason string `json:"reason,omitempty"`
}

// GetStatus changes nothing. It reads the files, and asks containerd for its version and its handlers.
func GetStatus(ctx context.Context, o Options) Status {
	var r Result
	c, failure := prepare(ctx, o, &r)
	if failure != nil {
		return Status{Reason: failure.Error()}
	}
	if c.journal, failure = loadJournal(c.state); failure != nil {
		return Status{Reason: failure.Error()}
	}
	s := Status{Installed: c.journal.Phase == phaseInstalled}
	switch s.Reason = c.reason(); {
	case s.Reason != "":
	case r.Containerd.PID == 0:
		s.Reason = "containerd does not run"
	default:
		if err := hasLoaded(ctx, r.Containerd.PID, c.plan.Handler); err != nil {
			s.Reason = err.Error()
		}
	}
	s.Current = s.Reason == ""
	return s
}

// reason returns why the files are not as this build would leave them, or "".
func (c *change) reason() string {
	switch c.journal.Phase {
	case phaseInstalled:
	case "":
		return "it is not installed"
	default:
		return fmt.Sprintf("an installation or removal was interrupted (%s)", c.journal.Phase)
	}
	if err := c.compare(); err != nil {
		return err.Error()
	}
	for _, t := range c.wanted {
		if t.differs {
			return t.Path + " is not as this build would write it"
		}
	}
	if c.changed {
		return "the journal is of another installation"
	}
	return ""
}
