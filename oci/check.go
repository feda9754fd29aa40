package oci

import (
	"errors"
	"math"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/moby/sys/signal"
	"golang.org/x/net/http/httpguts"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

const (
	// maxWords bounds a command (docs/spec.md#limits).
	maxWords = 4096
	// maxSeconds bounds the durations that Kubernetes does not have. It is far below the
	// maximum of a time.Duration.
	maxSeconds = math.MaxInt32
	portTakes  = "a number from 1 to 65535 is allowed"
)

// Values of failurePolicy.
const (
	FailurePolicyFail   = "Fail"
	FailurePolicyIgnore = "Ignore"
)

// Values of output.
const (
	OutputStatus = "Status"
	OutputLog    = "Log"
)

// checkLifecycle checks what the schema's types cannot express. Like the other checks, it
// returns all mistakes joined.
func checkLifecycle(block *lifecyclev1.Block) error {
	return errors.Join(
		checkStopSignal(block.StopSignal),
		checkGracePeriod("terminationGracePeriodSeconds", block.TerminationGracePeriodSeconds),
		checkHandler("preStart", block.PreStart),
		checkHandler("postStart", block.PostStart),
		checkHandler("preStop", block.PreStop),
		checkHandler("onExit", block.OnExit),
		checkSleeps(block),
	)
}

func checkStopSignal(name string) error {
	if _, ok := parseSignal(name); name != "" && !ok {
		return invalid("stopSignal", "is %s; a signal's name is allowed, such as SIGQUIT or SIGRTMIN+3%s", quote(name), braces(name))
	}
	return nil
}

func checkHandler(path string, handler *lifecyclev1.Handler) error {
	if handler == nil {
		return nil
	}
	return errors.Join(
		checkAction(path, handler),
		checkPreStart(path, handler),
		checkOutput(path+".output", handler),
		checkSeconds(path+".timeoutSeconds", handler.TimeoutSeconds),
		checkSeconds(path+".retryPeriodSeconds", handler.RetryPeriodSeconds),
		checkPolicy(path+".failurePolicy", handler.FailurePolicy, path),
	)
}

// checkPreStart refuses handlers that connect: before the entrypoint, no process of the
// container listens.
func checkPreStart(path string, handler *lifecyclev1.Handler) error {
	if path == "preStart" && (handler.HttpGet != nil || handler.TcpSocket != nil) {
		return invalid(path, "may be exec or sleep only: nothing in the container listens before the entrypoint runs")
	}
	return nil
}

func checkPolicy(path, policy, handler string) error {
	switch {
	case policy == "":
	case handler == "preStop":
		return invalid(path, "is for preStart and postStart only: a preStop that fails never keeps a container alive")
	case handler == "onExit":
		return invalid(path, "is for preStart and postStart only: an onExit runs after the container has exited")
	case policy != FailurePolicyFail && policy != FailurePolicyIgnore:
		return invalid(path, "is %s; it must be %s or %s%s", quote(policy), FailurePolicyFail, FailurePolicyIgnore, braces(policy))
	}
	return nil
}

// checkOutput refuses the field for all but exec handlers.
func checkOutput(path string, handler *lifecyclev1.Handler) error {
	switch {
	case handler.Output == "":
	case handler.Output != OutputStatus && handler.Output != OutputLog:
		return invalid(path, "is %s; it must be %s or %s%s", quote(handler.Output), OutputStatus, OutputLog, braces(handler.Output))
	case handler.Exec == nil:
		return invalid(path, "is for exec only: nothing else has an output")
	}
	return nil
}

// checkAction requires exactly one action (core/v1 validation, "may not specify more than 1
// handler type").
func checkAction(path string, handler *lifecyclev1.Handler) error {
	count := 0
	for _, set := range []bool{handler.Exec != nil, handler.HttpGet != nil, handler.TcpSocket != nil, handler.Sleep != nil} {
		if set {
			count++
		}
	}
	switch {
	case count != 1:
		return invalid(path, "must have exactly one of exec, httpGet, tcpSocket and sleep; it has %d", count)
	case handler.Exec != nil:
		return checkCommand(path+".exec.command", handler.Exec.Command)
	case handler.HttpGet != nil:
		return checkHTTPGet(path+".httpGet", handler.HttpGet)
	case handler.TcpSocket != nil:
		return checkAddress(path+".tcpSocket", handler.TcpSocket.Host, handler.TcpSocket.Port)
	case handler.Sleep.Seconds < 0:
		return invalid(path+".sleep.seconds", "is %d; it must be 0 or more", handler.Sleep.Seconds)
	}
	return nil
}

func checkCommand(path string, command []string) error {
	switch {
	case len(command) == 0:
		return invalid(path, "is an empty list; it must have 1 to %d words", maxWords)
	case len(command) > maxWords:
		return invalid(path, "has %d words; it must have 1 to %d", len(command), maxWords)
	}
	if command[0] == "" {
		return invalid(path+"[0]", "is empty; it must name a program")
	}
	for _, word := range command {
		if strings.ContainsRune(word, 0) {
			return invalid(path, "has a word with a NUL character; a program's arguments cannot contain one")
		}
	}
	return nil
}

func checkHTTPGet(path string, get *lifecyclev1.HTTPGetAction) error {
	return errors.Join(
		checkAddress(path, get.Host, get.Port),
		checkPath(path+".path", get.Path),
		checkScheme(path+".scheme", get.Scheme),
		checkHeaders(path+".httpHeaders", get.HttpHeaders),
	)
}

// checkPath accepts an invalid URL too: like Kubernetes, the handler sends it escaped, as a
// path (pkg/probe/http/request.go, "it's too late to reject it").
func checkPath(path, value string) error {
	if target, err := url.Parse(value); err == nil && target.Opaque != "" {
		return invalid(path, "is %s, which is read as a URL of scheme %s; begin it with a slash", quote(value), quote(target.Scheme))
	}
	return nil
}

func checkScheme(path, scheme string) error {
	if scheme != "" && scheme != "HTTP" && scheme != "HTTPS" {
		return invalid(path, "is %s; it must be HTTP or HTTPS%s", quote(scheme), braces(scheme))
	}
	return nil
}

func checkHeaders(path string, headers []*lifecyclev1.HTTPHeader) error {
	for _, header := range headers {
		if header.Name == "" {
			return invalid(path, "has a header whose name is missing or empty, which is not an HTTP token")
		}
		if !httpguts.ValidHeaderFieldName(header.Name) {
			return invalid(path, "has the name %s, which is not an HTTP token%s", quote(header.Name), braces(header.Name))
		}
		if !httpguts.ValidHeaderFieldValue(header.Value) {
			return invalid(path, "has a value for %s with control characters", quote(header.Name))
		}
	}
	return nil
}

func checkAddress(path, host string, port int32) error {
	return errors.Join(checkPort(path+".port", port), checkHost(path+".host", host))
}

func checkPort(path string, port int32) error {
	if port < 1 || port > math.MaxUint16 {
		return invalid(path, "is %d; %s", port, portTakes)
	}
	return nil
}

func checkHost(path, host string) error {
	if host == "" || host == "localhost" {
		return nil
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return invalid(path, "is %s; an IP address or localhost is allowed%s", quote(host), braces(host))
	}
	if address.Zone() != "" {
		return invalid(path, "is %s; a zone is an interface of one network namespace: give the address without %s", quote(host), quote("%"+address.Zone()))
	}
	return nil
}

// checkSleeps refuses a sleep that is longer than the grace period (core/v1 validation, for
// both handlers).
func checkSleeps(block *lifecyclev1.Block) error {
	if block.GetTerminationGracePeriodSeconds() < 1 {
		return nil // absent, or refused by checkGracePeriod
	}
	return errors.Join(
		checkSleep("postStart", block.PostStart, *block.TerminationGracePeriodSeconds),
		checkSleep("preStop", block.PreStop, *block.TerminationGracePeriodSeconds),
	)
}

func checkSleep(path string, handler *lifecyclev1.Handler, most int64) error {
	if seconds := handler.GetSleep().GetSeconds(); seconds > most {
		return invalid(path+".sleep.seconds", "is %d; at most terminationGracePeriodSeconds, %d, is allowed", seconds, most)
	}
	return nil
}

// checkGracePeriod has no upper limit, as in Kubernetes: see Seconds.
func checkGracePeriod(path string, seconds *int64) error {
	if seconds != nil && *seconds < 1 {
		return invalid(path, "is %d; it must be 1 or more", *seconds)
	}
	return nil
}

func checkSeconds(path string, seconds *int64) error {
	if seconds != nil && (*seconds < 1 || *seconds > maxSeconds) {
		return invalid(path, "is %d; it must be 1 to %d", *seconds, maxSeconds)
	}
	return nil
}

// Seconds returns the seconds of a block as a duration of at most 68 years (2^31-1
// seconds): Kubernetes accepts more seconds than a time.Duration can hold. It returns 0 for
// negative numbers.
func Seconds(seconds int64) time.Duration {
	return time.Duration(min(max(seconds, 0), maxSeconds)) * time.Second
}

// parseSignal accepts the names of the Kubernetes API: upper case, with SIG.
func parseSignal(name string) (uint32, bool) {
	if !strings.HasPrefix(name, "SIG") || strings.ToUpper(name) != name {
		return 0, false
	}
	number, err := signal.ParseSignal(name)
	return uint32(max(number, 0)), err == nil
}
