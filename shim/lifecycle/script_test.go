package lifecycle

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/datadriven"
)

// A scenario of testdata is a container with its handlers and settings, a script of
// events with their times, and after "----" the effects with theirs:
//
//	container preStop grace=5s
//	0s start
//	0s start returned
//	10s kill 15
//	----
//	...
//
// The handlers are preStart, postStart, preStop and onExit, if they have a time limit
// or failurePolicy as in postStart=(5s,Ignore); most:5s is the operator's limit. Requests are numbered as they come.
// Time passes where the machine has a deadline, and for ten minutes after the script.

// parseConfig returns the configuration of a container. The defaults of the node are
// 120 s for postStart and 10 s for the grace period.
func parseConfig(args []datadriven.CmdArg) (Config, error) {
	config := Config{DefaultPostStartTimeout: 120 * time.Second, DefaultGracePeriod: 10 * time.Second}
	handlers := map[string]**Handler{
		"preStart": &config.PreStart, "postStart": &config.PostStart, "preStop": &config.PreStop, "onExit": &config.OnExit,
	}
	times := map[string]*time.Duration{"grace": &config.GracePeriod, "podGrace": &config.PodGracePeriod, "maxGrace": &config.MaxGracePeriod}
	for _, arg := range args {
		value := strings.Join(arg.Vals, "")
		var err error
		switch {
		case handlers[arg.Key] != nil:
			*handlers[arg.Key], err = parseHandler(arg.Vals)
		case times[arg.Key] != nil:
			*times[arg.Key], err = time.ParseDuration(value)
		case arg.Key == "stopSignal":
			config.StopSignal, err = parseNumber(value)
		case arg.Key == "cri":
			config.CRI = true
		default:
			err = errors.New("unknown")
		}
		if err != nil {
			return Config{}, fmt.Errorf("%s: %w", arg, err)
		}
	}
	return config, nil
}

func parseHandler(values []string) (*Handler, error) {
	handler := &Handler{}
	for _, value := range values {
		if value == "Ignore" {
			handler.IgnoreFailure = true
			continue
		}
		to := &handler.Timeout
		if most, ok := strings.CutPrefix(value, "most:"); ok {
			value, to = most, &handler.Most
		}
		timeout, err := time.ParseDuration(value)
		if err != nil {
			return nil, err
		}
		*to = timeout
	}
	return handler, nil
}

func parseNumber(text string) (uint32, error) {
	number, err := strconv.ParseUint(text, 10, 32)
	return uint32(number), err
}

var errRuntime = errors.New("the runtime's error")

// parseEvent returns the event of a line without its time.
func parseEvent(line string, request RequestID) (Event, error) {
	words := strings.Fields(line)
	line, failed := strings.CutSuffix(line, " with an error")
	var err error
	if failed {
		err = errRuntime
	}
	switch {
	case line == "start":
		return Event{Kind: StartRequested, Request: request}, nil
	case strings.HasPrefix(line, "start by "):
		deadline, err := time.ParseDuration(words[2])
		return Event{Kind: StartRequested, Request: request, Deadline: epoch.Add(deadline)}, err
	case line == "start returned":
		return Event{Kind: StartReturned, Err: err}, nil
	case words[0] == "kill" && len(words) > 1:
		number, err := parseNumber(words[1])
		return Event{Kind: KillRequested, Request: request, Signal: Signal{Number: number, All: len(words) > 2 && words[2] == "all"}}, err
	case line == "delete":
		return Event{Kind: DeleteRequested, Request: request}, nil
	case line == "delete returned":
		return Event{Kind: DeleteReturned, Err: err}, nil
	case line == "exit":
		return Event{Kind: ContainerExited}, nil
	case words[0] == "handler":
		result, err := parseResult(strings.TrimPrefix(line, "handler "))
		return Event{Kind: HandlerEnded, Result: result}, err
	default:
		return Event{}, fmt.Errorf("unknown event %q", line)
	}
}

func parseResult(text string) (Result, error) {
	name, cause, _ := strings.Cut(text, ": ")
	for i, known := range outcomeNames {
		if known != name {
			continue
		}
		result := Result{Outcome: Outcome(i), Message: "its message"}
		for j, known := range causeNames {
			if known == cause {
				result.Cause = Cause(j)
			}
		}
		if (result.Cause == NoCause) != (cause == "") {
			return Result{}, fmt.Errorf("unknown cause %q", cause)
		}
		return result, nil
	}
	return Result{}, fmt.Errorf("unknown outcome %q", name)
}

// player runs a script on a machine.
type player struct {
	machine *Machine
	out     strings.Builder
}

func (p *player) print(now time.Time, text string) {
	fmt.Fprintf(&p.out, "%s %s\n", now.Sub(epoch), text)
}

func (p *player) step(now time.Time, event Event) {
	for _, effect := range p.machine.Step(now, event) {
		p.print(now, showEffect(effect))
	}
}

// pass lets time pass: each deadline is reached in its turn. No container has many.
func (p *player) pass(until time.Time) {
	for range 20 {
		due := p.machine.Deadline()
		if due.IsZero() || due.After(until) {
			return
		}
		p.step(due, Event{Kind: DeadlineReached})
	}
	p.print(until, "there is always another deadline")
}

// play runs a script and returns the effects, and the status where a line asks for it.
func play(config Config, script string) (string, error) {
	p := player{machine: New(config)}
	requests := RequestID(0)
	for line := range strings.Lines(script) {
		at, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		after, err := time.ParseDuration(at)
		if err != nil {
			return "", err
		}
		now := epoch.Add(after)
		p.pass(now)
		if what == "status" {
			p.print(now, showStatus(p.machine))
			continue
		}
		event, err := parseEvent(what, requests+1)
		if err != nil {
			return "", err
		}
		requests = max(requests, event.Request)
		p.step(now, event)
	}
	p.pass(epoch.Add(10 * time.Minute))
	return p.out.String(), nil
}

// showEffect shows an effect with everything that its owner gets.
func showEffect(e Effect) string {
	text := e.String()
	after := func(t time.Time) string { return t.Sub(epoch).String() }
	switch e.Kind {
	case CallStart, CallDelete, Forward:
		text += fmt.Sprintf(" %d", e.Request)
	case Answer:
		text = fmt.Sprintf("Answer %d", e.Request)
		if e.Err != nil {
			text += ": " + e.Err.Error()
		}
	case RunHandler:
		if !e.Limit.IsZero() {
			text += " until " + after(e.Limit)
		}
		text += fmt.Sprintf(" (%s)", e.LimitOwner)
		if e.Signal.Number != 0 {
			text += fmt.Sprintf(" before signal %d", e.Signal.Number)
		}
		if !e.Deadline.IsZero() {
			text += " at " + after(e.Deadline)
		}
		if e.NotStarted {
			text += ", not started"
		}
	case SendSignal:
		if e.Signal.All {
			text += " to all"
		}
	case AbortHandler, ReleaseStart, ReleaseExit:
	}
	return text
}

// showStatus shows all that a machine shows of itself.
func showStatus(m *Machine) string {
	status := m.Status()
	text := "status " + status.Stage.String()
	if status.StartHeld {
		text += ", start held"
	}
	if status.Pending != 0 {
		text += fmt.Sprintf(", signal %d waits", status.Pending)
	}
	if !status.Deadline.IsZero() {
		text += fmt.Sprintf(", due %s", status.Deadline.Sub(epoch))
	}
	if m.Handler() != NoHandler {
		text += ", runs " + m.Handler().String()
	}
	if m.Done() {
		text += ", done"
	}
	if status.Stage != m.Stage() || status.StartHeld != m.StartHeld() || status.Deadline != m.Deadline() {
		text += ", not what its methods return"
	}
	return text
}
