package oci

import (
	"math"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"github.com/moby/sys/signal"
	"golang.org/x/net/http/httpguts"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

const (
	// maxWords bounds a command (SPEC 2).
	maxWords = 4096
	// maxSeconds keeps every time limit far inside a time.Duration.
	maxSeconds = math.MaxInt32
)

// What failurePolicy may say.
const (
	FailurePolicyFail   = "Fail"
	FailurePolicyIgnore = "Ignore"
)

// What output may say.
const (
	OutputStatus = "Status"
	OutputLog    = "Log"
)

// checkLifecycle checks what the schema's types cannot say.
func checkLifecycle(block *lifecyclev1.Block) error {
	if block.StopSignal != "" {
		if _, ok := parseSignal(block.StopSignal); !ok {
			return invalid("stopSignal", "is %q; a signal's name is allowed, such as SIGQUIT or SIGRTMIN+3", block.StopSignal)
		}
	}
	if err := checkSeconds("terminationGracePeriodSeconds", block.TerminationGracePeriodSeconds); err != nil {
		return err
	}
	if err := checkHandler("postStart", block.PostStart, true); err != nil {
		return err
	}
	if err := checkHandler("preStop", block.PreStop, false); err != nil {
		return err
	}
	return checkSleeps(block)
}

func checkHandler(path string, handler *lifecyclev1.Handler, postStart bool) error {
	if handler == nil {
		return nil
	}
	if err := checkAction(path, handler); err != nil {
		return err
	}
	if err := checkOutput(path, handler); err != nil {
		return err
	}
	if err := checkSeconds(path+".timeoutSeconds", handler.TimeoutSeconds); err != nil {
		return err
	}
	if err := checkSeconds(path+".retryPeriodSeconds", handler.RetryPeriodSeconds); err != nil {
		return err
	}
	switch {
	case handler.FailurePolicy == "":
	case !postStart:
		return invalid(path+".failurePolicy", "is for postStart only: a preStop that fails never keeps a container alive")
	case handler.FailurePolicy != FailurePolicyFail && handler.FailurePolicy != FailurePolicyIgnore:
		return invalid(path+".failurePolicy", "is %q; allowed are %s and %s", handler.FailurePolicy, FailurePolicyFail, FailurePolicyIgnore)
	}
	return nil
}

// checkOutput: only a process has an output.
func checkOutput(path string, handler *lifecyclev1.Handler) error {
	switch {
	case handler.Output == "":
	case handler.Output != OutputStatus && handler.Output != OutputLog:
		return invalid(path+".output", "is %q; allowed are %s and %s", handler.Output, OutputStatus, OutputLog)
	case handler.Exec == nil:
		return invalid(path+".output", "is for exec only: nothing else has an output")
	}
	return nil
}

// checkAction: exactly one of the four (core/v1 validation, "may not specify
// more than 1 handler type").
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
	case handler.Sleep.Seconds < 0 || handler.Sleep.Seconds > maxSeconds:
		return invalid(path+".sleep.seconds", "is %d; allowed is 0 to %d", handler.Sleep.Seconds, maxSeconds)
	}
	return nil
}

func checkCommand(path string, command []string) error {
	if len(command) == 0 || len(command) > maxWords {
		return invalid(path, "has %d words; allowed is 1 to %d", len(command), maxWords)
	}
	if command[0] == "" {
		return invalid(path+"[0]", "is empty; it must name a program")
	}
	for _, word := range command {
		if strings.ContainsRune(word, 0) {
			return invalid(path, "has a word with a NUL character, which no program can be given")
		}
	}
	return nil
}

func checkHTTPGet(path string, get *lifecyclev1.HTTPGetAction) error {
	if err := checkAddress(path, get.Host, get.Port); err != nil {
		return err
	}
	switch target, err := url.Parse(get.Path); {
	case err != nil:
		return invalid(path+".path", "is not a URL path: %s", oneLine(err))
	case target.Opaque != "":
		return invalid(path+".path", "is %q, which is read as a URL of scheme %q; begin it with a slash", get.Path, target.Scheme)
	}
	if get.Scheme != "" && get.Scheme != "HTTP" && get.Scheme != "HTTPS" {
		return invalid(path+".scheme", "is %q; allowed are HTTP and HTTPS", get.Scheme)
	}
	for _, header := range get.HttpHeaders {
		if !httpguts.ValidHeaderFieldName(header.Name) {
			return invalid(path+".httpHeaders", "has the name %q, which is not an HTTP token", header.Name)
		}
		if !httpguts.ValidHeaderFieldValue(header.Value) {
			return invalid(path+".httpHeaders", "has a value for %q with control characters", header.Name)
		}
	}
	return nil
}

func checkAddress(path, host string, port int32) error {
	if port < 1 || port > math.MaxUint16 {
		return invalid(path+".port", "is %d; a number from 1 to 65535 is allowed", port)
	}
	if host == "" || host == "localhost" {
		return nil
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return invalid(path+".host", "is %q; an IP address or localhost is allowed", host)
	}
	if address.Zone() != "" {
		return invalid(path+".host", "is %q; a zone is an interface of one network namespace: give the address without %q", host, "%"+address.Zone())
	}
	return nil
}

// checkSleeps: a sleep is bounded by the grace period (core/v1 validation, for
// both handlers).
func checkSleeps(block *lifecyclev1.Block) error {
	if block.TerminationGracePeriodSeconds == nil {
		return nil
	}
	if err := checkSleep("postStart", block.PostStart, *block.TerminationGracePeriodSeconds); err != nil {
		return err
	}
	return checkSleep("preStop", block.PreStop, *block.TerminationGracePeriodSeconds)
}

func checkSleep(path string, handler *lifecyclev1.Handler, most int64) error {
	if seconds := handler.GetSleep().GetSeconds(); seconds > most {
		return invalid(path+".sleep.seconds", "is %d; at most terminationGracePeriodSeconds, %d, is allowed", seconds, most)
	}
	return nil
}

func checkSeconds(path string, seconds *int64) error {
	if seconds != nil && (*seconds < 1 || *seconds > maxSeconds) {
		return invalid(path, "is %d; allowed is 1 to %d", *seconds, maxSeconds)
	}
	return nil
}

// parseSignal takes the names of the Kubernetes API: upper case, with SIG.
func parseSignal(name string) (uint32, bool) {
	if name == "" || !strings.HasPrefix(name, "SIG") || strings.ToUpper(name) != name {
		return 0, false
	}
	number, err := signal.ParseSignal(name)
	if err != nil || number <= 0 || number == syscall.Signal(-1) {
		return 0, false
	}
	return uint32(number), true
}
