package oci

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// Limits are what a node's or a cluster's operator allows handlers
// (docs/spec.md#operator-limits). Create and the tools for admission check them here, so
// they refuse in the same words. The zero value has no limit.
type Limits struct {
	// MaxTimeout and MaxGracePeriod are whole seconds, 0 without a limit.
	MaxTimeout, MaxGracePeriod time.Duration
	// AllowedHandlers are the types that may be used, in the order of HandlerTypes. Nil
	// allows all, and an empty list none.
	AllowedHandlers []string
}

// Names of the limits, as in config.toml.
const (
	maxTimeoutName      = "MaxTimeout"
	maxGracePeriodName  = "MaxGracePeriod"
	allowedHandlersName = "AllowedHandlers"
)

// HandlerTypes are the actions that a handler may have.
var HandlerTypes = []string{"exec", "httpGet", "tcpSocket", "sleep"}

// TypeOf returns the type of a handler that has been checked.
func TypeOf(handler *lifecyclev1.Handler) string {
	switch {
	case handler.GetExec() != nil:
		return "exec"
	case handler.GetHttpGet() != nil:
		return "httpGet"
	case handler.GetTcpSocket() != nil:
		return "tcpSocket"
	default:
		return "sleep"
	}
}

// ParseLimit reads the value of MaxTimeout or MaxGracePeriod. A block's fields are in whole
// seconds, and so are the limits: a refusal can show both in the same unit.
func ParseLimit(text string) (time.Duration, error) {
	value, err := time.ParseDuration(text)
	if err != nil || value < time.Second || value > maxSeconds*time.Second || value%time.Second != 0 {
		return 0, fmt.Errorf("%s is no duration of 1 to %d whole seconds, such as \"90s\" or \"5m\"", quote(text), maxSeconds)
	}
	return value, nil
}

// ParseAllowed reads the value of AllowedHandlers, in any order.
func ParseAllowed(types []string) ([]string, error) {
	if len(types) == 0 {
		return nil, fmt.Errorf("no type of handler is named; name at least one of %s, or leave the setting out to allow all", strings.Join(HandlerTypes, ", "))
	}
	for _, name := range types {
		if !slices.Contains(HandlerTypes, name) {
			return nil, fmt.Errorf("%s is no type of handler; allowed: %s", quote(name), strings.Join(HandlerTypes, ", "))
		}
	}
	return allowed(func(name string) bool { return slices.Contains(types, name) }), nil
}

func allowed(is func(string) bool) []string {
	types := []string{}
	for _, name := range HandlerTypes {
		if is(name) {
			types = append(types, name)
		}
	}
	return types
}

// Stricter returns what both limits allow.
func (l Limits) Stricter(other Limits) Limits {
	both := Limits{
		MaxTimeout:     stricter(l.MaxTimeout, other.MaxTimeout),
		MaxGracePeriod: stricter(l.MaxGracePeriod, other.MaxGracePeriod),
	}
	if l.AllowedHandlers != nil || other.AllowedHandlers != nil {
		both.AllowedHandlers = allowed(func(name string) bool { return l.allows(name) && other.allows(name) })
	}
	return both
}

func stricter(one, other time.Duration) time.Duration {
	if one == 0 || other == 0 {
		return max(one, other)
	}
	return min(one, other)
}

func (l Limits) allows(name string) bool {
	return l.AllowedHandlers == nil || slices.Contains(l.AllowedHandlers, name)
}

// Allowed returns the types that may be used.
func (l Limits) Allowed() []string { return allowed(l.allows) }

// Limited reports whether there is any limit.
func (l Limits) Limited() bool {
	return l.MaxTimeout > 0 || l.MaxGracePeriod > 0 || l.AllowedHandlers != nil
}

// GracePeriod returns the seconds of a grace period that nobody has chosen, cut to the
// limit.
func (l Limits) GracePeriod(seconds int64) int64 {
	if most := whole64(l.MaxGracePeriod); most > 0 {
		return min(seconds, most)
	}
	return seconds
}

// check returns what in a block is above the limits, as fieldErrors, joined. The block has
// been checked otherwise.
func (l Limits) check(block *lifecyclev1.Block) error {
	errs := []error{exceeds("terminationGracePeriodSeconds", block.GetTerminationGracePeriodSeconds(), maxGracePeriodName, l.MaxGracePeriod)}
	for _, name := range Handlers {
		errs = append(errs, l.checkHandler(name, HandlerOf(block, name)))
	}
	return errors.Join(errs...)
}

// checkHandler does not look at how many attempts a handler may have: all of them together
// are one run, which the time limit ends.
func (l Limits) checkHandler(path string, handler *lifecyclev1.Handler) error {
	if handler == nil {
		return nil
	}
	var errs []error
	if name := TypeOf(handler); !l.allows(name) {
		errs = append(errs, above(path, "of type "+name, allowedHandlersName, strings.Join(l.AllowedHandlers, ", ")))
	}
	return errors.Join(append(errs,
		exceeds(path+".sleep.seconds", handler.GetSleep().GetSeconds(), maxTimeoutName, l.MaxTimeout),
		exceeds(path+".timeoutSeconds", handler.GetTimeoutSeconds(), maxTimeoutName, l.MaxTimeout),
		exceeds(path+".retryPeriodSeconds", handler.GetRetryPeriodSeconds(), maxTimeoutName, l.MaxTimeout),
	)...)
}

// exceeds returns an error if a field in seconds is above a limit.
func exceeds(path string, seconds int64, name string, limit time.Duration) error {
	most := whole64(limit)
	if most == 0 || seconds <= most {
		return nil
	}
	return above(path, fmt.Sprint(seconds), name, fmt.Sprint(most))
}

// above words every refusal because of a limit. deploy/kubernetes/policy.yaml has the same
// words, and a test compares them.
func above(path, value, name, limit string) error {
	if limit == "" {
		limit = "none" // the node's settings and the runtime's options allow nothing in common
	}
	return invalid(path, "is %s; the operator's limit %s is %s", value, name, limit)
}

func whole64(limit time.Duration) int64 { return int64(limit / time.Second) }
