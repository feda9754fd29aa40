package oci

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// rule is a value that is accepted or refused, and the rule for it.
type rule struct {
	// row of part A of KUBERNETES.md.
	row string
	// spec is the rule of docs/spec.md that has priority over the row, and why. It is
	// empty if the row applies.
	spec string
	// handler is tested as postStart and as preStop. If it is empty, block is the whole
	// value.
	handler, block string
	// refused is the path of the field in the error (within handler, if that is set), and
	// says is part of the error's text. Both are empty if the value is accepted.
	refused, says string
}

const (
	oneOf      = "exactly one of exec, httpGet, tcpSocket and sleep"
	ports      = "a number from 1 to 65535 is allowed"
	hosts      = "an IP address or localhost is allowed"
	schemes    = "it must be HTTP or HTTPS"
	notAField  = "is not a known field"
	hostRule   = "`host` an IP address or `localhost`: a name would be resolved with the node's resolver, not the container's"
	portRule   = "`port` a number from 1 to 65535: the container's ports are not in the bundle"
	tokenRule  = "header names are HTTP tokens: what an HTTP server takes; Kubernetes has letters, digits and - only"
	wordsRule  = "command 1 to 4096 words: bounds what one annotation can cost"
	failsLate  = "an invalid value fails Create: Kubernetes accepts it, and the handler can only fail"
	signalRule = "a Kubernetes `lifecycle:` block, verbatim: Kubernetes refuses it empty; templates write it so for no signal"
)

// kubernetesRules has each row of part A about accepted values. Values that are not a block
// at all, and the fields that Kubernetes does not have, are in TestInvalid.
var kubernetesRules = map[string]rule{
	"A1 exec":      {row: "A1", handler: "exec: {command: [a]}"},
	"A1 httpGet":   {row: "A1", handler: "httpGet: {port: 80}"},
	"A1 tcpSocket": {row: "A1", handler: "tcpSocket: {port: 80}"},
	"A1 sleep":     {row: "A1", handler: "sleep: {seconds: 1}"},
	"A1 both, and a signal": {
		row: "A1", block: "{postStart: {exec: {command: [a]}}, preStop: {sleep: {seconds: 1}}, stopSignal: SIGQUIT}",
	},
	"A1 grpc is for probes":        {row: "A1", handler: "grpc: {port: 80}", refused: "grpc", says: "allowed: exec, httpGet, tcpSocket, sleep"},
	"A1 a handler's name is exact": {row: "A1", handler: "httpget: {port: 80}", refused: "httpget", says: notAField},
	"A1 a third handler":           {row: "A1", block: "preBoot: {exec: {command: [a]}}", refused: "preBoot", says: "allowed: postStart, preStop, stopSignal"},

	"A2 an empty block":         {row: "A2", block: "{}"},
	"A2 null is absent":         {row: "A2", handler: "{exec: {command: [a]}, httpGet: null, tcpSocket: null, sleep: ~}"},
	"A2 a null handler":         {row: "A2", block: "{postStart: null, preStop: ~, stopSignal: null}"},
	"A2 no type":                {row: "A2", handler: "{}", says: oneOf + "; it has 0"},
	"A2 only null types":        {row: "A2", handler: "{exec: null}", says: oneOf + "; it has 0"},
	"A2 two types":              {row: "A2", handler: "{exec: {command: [a]}, sleep: {seconds: 1}}", says: oneOf + "; it has 2"},
	"A2 four types":             {row: "A2", handler: "{exec: {command: [a]}, httpGet: {port: 1}, tcpSocket: {port: 1}, sleep: {}}", says: oneOf + "; it has 4"},
	"A2 a handler is a mapping": {row: "A2", handler: "[{sleep: {seconds: 1}}]", says: "must be a mapping, not a list"},

	"A3 a program and its arguments": {row: "A3", handler: `exec: {command: [/bin/sh, -c, "a b", ""]}`},
	"A3 the most words": {
		row: "A3", handler: "exec: {command: [" + strings.Repeat("a,", 4096) + "]}",
		spec: wordsRule,
	},
	"A3 too many words": {
		row: "A3", handler: "exec: {command: [" + strings.Repeat("a,", 4097) + "]}",
		spec: wordsRule, refused: "exec.command", says: "has 4097 words; it must have 1 to 4096",
	},
	"A3 no command":            {row: "A3", handler: "exec: {}", refused: "exec.command", says: "is missing; a list of 1 to 4096 words is allowed"},
	"A3 an empty list":         {row: "A3", handler: "exec: {command: []}", refused: "exec.command", says: "is an empty list; it must have 1 to 4096 words"},
	"A3 no shell":              {row: "A3", handler: "exec: {command: ls -l}", refused: "exec.command", says: "must be a list, not a string"},
	"A3 a number":              {row: "A3", handler: "exec: {command: [sleep, 5]}", refused: "exec.command[1]", says: "must be a string, not a number"},
	"A3 a boolean":             {row: "A3", handler: "exec: {command: [true]}", refused: "exec.command[0]", says: "must be a string, not a boolean"},
	"A3 null is an empty word": {row: "A3", handler: "exec: {command: [sh, null, ~]}"},
	"A3 null for a program":    {row: "A3", handler: "exec: {command: [null]}", spec: failsLate, refused: "exec.command[0]", says: "must name a program"},
	"A3 null for a command":    {row: "A3", handler: "exec: {command: null}", refused: "exec.command", says: "is missing"},
	"A3 an empty name":         {row: "A3", handler: `exec: {command: ["", a]}`, spec: failsLate, refused: "exec.command[0]", says: "must name a program"},
	"A3 NUL":                   {row: "A3", handler: `exec: {command: [a, "b\0"]}`, spec: failsLate, refused: "exec.command", says: "NUL"},
	"A3 no user":               {row: "A3", handler: "exec: {command: [a], user: root}", refused: "exec.user", says: notAField + "; allowed: command"},
	"A3 no env":                {row: "A3", handler: "exec: {command: [a], env: []}", refused: "exec.env", says: notAField},
	"A3 no cwd":                {row: "A3", handler: "exec: {command: [a], workingDir: /}", refused: "exec.workingDir", says: notAField},
	"A3 no tty":                {row: "A3", handler: "exec: {command: [a], tty: true}", refused: "exec.tty", says: notAField},
	"A3 no stdin":              {row: "A3", handler: "exec: {command: [a], stdin: true}", refused: "exec.stdin", says: notAField},
	"A3 no time in exec":       {row: "A3", handler: "exec: {command: [a], timeoutSeconds: 1}", refused: "exec.timeoutSeconds", says: notAField},

	"A9 no host":             {row: "A9", handler: "httpGet: {port: 80}"},
	"A9 an empty host":       {row: "A9", handler: `httpGet: {port: 80, host: ""}`},
	"A9 IPv4":                {row: "A9", handler: "httpGet: {port: 80, host: 10.0.0.1}"},
	"A9 IPv6":                {row: "A9", handler: `httpGet: {port: 80, host: "fd00::1"}`},
	"A9 IPv6 without quotes": {row: "A9", handler: "httpGet:\n  port: 80\n  host: ::1"},
	"A9 IPv4 in IPv6":        {row: "A9", handler: `httpGet: {port: 80, host: "::ffff:10.0.0.1"}`},
	"A9 localhost":           {row: "A9", handler: "httpGet: {port: 80, host: localhost}"},
	"A9 a name":              {row: "A9", handler: "httpGet: {port: 80, host: example.com}", spec: hostRule, refused: "httpGet.host", says: hosts},
	"A9 localhost is exact":  {row: "A9", handler: "httpGet: {port: 80, host: Localhost}", spec: hostRule, refused: "httpGet.host", says: hosts},
	"A9 a host with a port":  {row: "A9", handler: `httpGet: {port: 80, host: "10.0.0.1:80"}`, spec: hostRule, refused: "httpGet.host", says: hosts},
	"A9 IPv6 in brackets":    {row: "A9", handler: `httpGet: {port: 80, host: "[::1]"}`, spec: hostRule, refused: "httpGet.host", says: hosts},
	"A9 a network":           {row: "A9", handler: "httpGet: {port: 80, host: 10.0.0.0/8}", spec: hostRule, refused: "httpGet.host", says: hosts},
	"A9 octal IPv4":          {row: "A9", handler: "httpGet: {port: 80, host: 010.0.0.1}", spec: hostRule, refused: "httpGet.host", says: hosts},
	"A9 a zone": {
		row: "A9", handler: `httpGet: {port: 80, host: "fe80::1%eth0"}`, refused: "httpGet.host", says: `give the address without "%eth0"`,
		spec: "`host` an IP address: a zone is no part of one, but an interface of one namespace, and the author of the block does not know its name",
	},

	"A10 the least":        {row: "A10", handler: "httpGet: {port: 1}"},
	"A10 the most":         {row: "A10", handler: "httpGet: {port: 65535}"},
	"A10 none":             {row: "A10", handler: "httpGet: {}", refused: "httpGet.port", says: "is missing; " + ports},
	"A10 null":             {row: "A10", handler: "httpGet: {port: null}", refused: "httpGet.port", says: "is missing; " + ports},
	"A10 0":                {row: "A10", handler: "httpGet: {port: 0}", refused: "httpGet.port", says: "is 0; " + ports},
	"A10 below":            {row: "A10", handler: "httpGet: {port: -1}", refused: "httpGet.port", says: "is -1; " + ports},
	"A10 above":            {row: "A10", handler: "httpGet: {port: 65536}", refused: "httpGet.port", says: "is 65536; " + ports},
	"A10 a float":          {row: "A10", handler: "httpGet: {port: 80.0}"},
	"A10 JSON's float":     {row: "A10", block: `{"preStop": {"httpGet": {"port": 80.0}}}`},
	"A10 an exponent":      {row: "A10", handler: "httpGet: {port: 8e1}"},
	"A10 above 32 bits":    {row: "A10", handler: "httpGet: {port: 4294967376}", refused: "httpGet.port", says: "whole number of 32 bits"},
	"A10 a fraction":       {row: "A10", handler: "httpGet: {port: 80.5}", refused: "httpGet.port", says: "whole number"},
	"A10 a boolean":        {row: "A10", handler: "httpGet: {port: true}", refused: "httpGet.port", says: "must be a whole number, not a boolean"},
	"A10 a name":           {row: "A10", handler: "httpGet: {port: http}", spec: portRule, refused: "httpGet.port", says: `is the text "http"; ` + ports},
	"A10 who knows a name": {row: "A10", handler: "httpGet: {port: http}", spec: portRule, refused: "httpGet.port", says: "resolved by lifecyclectl"},
	"A10 a quoted number": {
		// This follows the row: Kubernetes reads it as a name, and its API server refuses
		// the name, because a port's name has at least one letter.
		row: "A10", handler: `httpGet: {port: "8080"}`, refused: "httpGet.port", says: `is the text "8080"; ` + ports + ", without quotes",
	},

	"A11 no path":         {row: "A11", handler: "httpGet: {port: 80}"},
	"A11 an empty path":   {row: "A11", handler: `httpGet: {port: 80, path: ""}`},
	"A11 a path":          {row: "A11", handler: "httpGet: {port: 80, path: /a/b}"},
	"A11 a query":         {row: "A11", handler: `httpGet: {port: 80, path: "/a?b=c&d=%20"}`},
	"A11 a fragment":      {row: "A11", handler: `httpGet: {port: 80, path: "/a#b"}`},
	"A11 no slash":        {row: "A11", handler: "httpGet: {port: 80, path: a/b}"},
	"A11 only a query":    {row: "A11", handler: `httpGet: {port: 80, path: "?a=b"}`},
	"A11 other alphabets": {row: "A11", handler: "httpGet: {port: 80, path: /größe/大小}"},
	"A11 a list":          {row: "A11", handler: "httpGet: {port: 80, path: [/a]}", refused: "httpGet.path", says: "must be a string, not a list"},
	"A11 a colon":         {row: "A11", handler: `httpGet: {port: 80, path: "/items:drain"}`},
	"A11 no slash before a colon": {
		row: "A11", handler: `httpGet: {port: 80, path: "items:drain"}`, spec: failsLate, refused: "httpGet.path", says: `scheme "items"; begin it with a slash`,
	},
	// Kubernetes sends these escaped, as a path ("it's too late to reject it",
	// pkg/probe/http/request.go).
	"A11 no URL reference":     {row: "A11", handler: `httpGet: {port: 80, path: "/50%"}`},
	"A11 no URL, and no slash": {row: "A11", handler: `httpGet: {port: 80, path: "1:2"}`},
	"A11 a control character":  {row: "A11", handler: `httpGet: {port: 80, path: "/\x7f"}`},

	"A12 HTTP":            {row: "A12", handler: "httpGet: {port: 80, scheme: HTTP}"},
	"A12 HTTPS":           {row: "A12", handler: "httpGet: {port: 80, scheme: HTTPS}"},
	"A12 the default":     {row: "A12", handler: `httpGet: {port: 80, scheme: ""}`},
	"A12 lower case":      {row: "A12", handler: "httpGet: {port: 80, scheme: http}", refused: "httpGet.scheme", says: `is "http"; ` + schemes},
	"A12 something else":  {row: "A12", handler: "httpGet: {port: 80, scheme: FTP}", refused: "httpGet.scheme", says: schemes},
	"A12 with the colon":  {row: "A12", handler: `httpGet: {port: 80, scheme: "HTTP://"}`, refused: "httpGet.scheme", says: schemes},
	"A12 no scheme there": {row: "A12", handler: "tcpSocket: {port: 80, scheme: HTTP}", refused: "tcpSocket.scheme", says: notAField + "; allowed: port, host"},

	"A13 none":            {row: "A13", handler: "httpGet: {port: 80, httpHeaders: []}"},
	"A13 repeated":        {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: X, value: a}, {name: X, value: b}, {name: x, value: c}]}"},
	"A13 Host":            {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: Host, value: example.com}]}"},
	"A13 an empty Accept": {row: "A13", handler: `httpGet: {port: 80, httpHeaders: [{name: Accept, value: ""}]}`},
	"A13 User-Agent":      {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: User-Agent, value: a/1}]}"},
	"A13 no value":        {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: X}]}"},
	"A13 another alphabet": {
		row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: X, value: größe}]}",
	},
	"A13 a token":          {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: X_Y.z, value: a}]}", spec: tokenRule},
	"A13 a space":          {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: a b, value: c}]}", refused: "httpGet.httpHeaders", says: `the name "a b", which is not an HTTP token`},
	"A13 a colon":          {row: "A13", handler: `httpGet: {port: 80, httpHeaders: [{name: "a:", value: c}]}`, refused: "httpGet.httpHeaders", says: "not an HTTP token"},
	"A13 a name in UTF-8":  {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: größe, value: c}]}", refused: "httpGet.httpHeaders", says: "not an HTTP token"},
	"A13 an empty name":    {row: "A13", handler: `httpGet: {port: 80, httpHeaders: [{name: "", value: c}]}`, refused: "httpGet.httpHeaders", says: "not an HTTP token"},
	"A13 no name":          {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{value: c}]}", refused: "httpGet.httpHeaders", says: "not an HTTP token"},
	"A13 a new line":       {row: "A13", handler: `httpGet: {port: 80, httpHeaders: [{name: a, value: "b\nc: d"}]}`, spec: failsLate, refused: "httpGet.httpHeaders", says: `a value for "a" with control characters`},
	"A13 a mapping":        {row: "A13", handler: "httpGet: {port: 80, httpHeaders: {X: y}}", refused: "httpGet.httpHeaders", says: "must be a list, not a mapping"},
	"A13 a number":         {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: X, value: 1}]}", refused: "httpGet.httpHeaders[0].value", says: "must be a string, not a number"},
	"A13 a null header":    {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [null]}", spec: failsLate, refused: "httpGet.httpHeaders[0]", says: "must be a mapping, not null"},
	"A13 an unknown field": {row: "A13", handler: "httpGet: {port: 80, httpHeaders: [{name: X, valueFrom: {}}]}", refused: "httpGet.httpHeaders[0].valueFrom", says: notAField + "; allowed: name, value"},

	// Kubernetes accepts tcpSocket and never runs it. Here it works (docs/spec.md#tcp-socket),
	// so its port and host have the same rules as those of httpGet.
	"A19 a port and a host": {row: "A19", handler: "tcpSocket: {port: 65535, host: 127.0.0.1}"},
	"A19 no port":           {row: "A19", handler: "tcpSocket: {host: 127.0.0.1}", refused: "tcpSocket.port", says: "is missing; " + ports},
	"A19 above":             {row: "A19", handler: "tcpSocket: {port: 65536}", refused: "tcpSocket.port", says: "is 65536; " + ports},
	"A19 a name":            {row: "A19", handler: "tcpSocket: {port: redis}", spec: portRule, refused: "tcpSocket.port", says: `is the text "redis"; ` + ports},
	"A19 a host's name":     {row: "A19", handler: "tcpSocket: {port: 80, host: example.com}", spec: hostRule, refused: "tcpSocket.host", says: hosts},

	"A20 nothing":        {row: "A20", handler: "sleep: {}"},
	"A20 a fraction":     {row: "A20", handler: "sleep: {seconds: 1.5}", refused: "sleep.seconds", says: "whole number"},
	"A20 a text":         {row: "A20", handler: `sleep: {seconds: "5"}`, refused: "sleep.seconds", says: "must be a whole number, not a string"},
	"A20 a unit":         {row: "A20", handler: "sleep: {seconds: 5s}", refused: "sleep.seconds", says: "must be a whole number, not a string"},
	"A20 only a number":  {row: "A20", handler: "sleep: 5", refused: "sleep", says: "must be a mapping, not a number"},
	"A20 another field":  {row: "A20", handler: "sleep: {minutes: 5}", refused: "sleep.minutes", says: notAField + "; allowed: seconds"},
	"A21 0":              {row: "A21", handler: "sleep: {seconds: 0}"},
	"A21 no grace given": {row: "A21", handler: "sleep: {seconds: 86400}"},
	"A21 all of the grace": {
		row: "A21", block: "{postStart: {sleep: {seconds: 30}}, preStop: {sleep: {seconds: 30}}, terminationGracePeriodSeconds: 30}",
	},
	"A21 postStart too": {
		row: "A21", block: "{postStart: {sleep: {seconds: 31}}, terminationGracePeriodSeconds: 30}",
		refused: "postStart.sleep.seconds", says: "is 31; at most terminationGracePeriodSeconds, 30, is allowed",
	},
	"A21 preStop": {
		row: "A21", block: "{preStop: {sleep: {seconds: 31}}, terminationGracePeriodSeconds: 30}",
		refused: "preStop.sleep.seconds", says: "is 31; at most terminationGracePeriodSeconds, 30, is allowed",
	},
	"A21 as much as Kubernetes takes": {
		row: "A21", block: "{preStop: {sleep: {seconds: 9223372036854775807}}, terminationGracePeriodSeconds: 9223372036854775807}",
	},
	"A21 below 0": {
		row: "A21", handler: "sleep: {seconds: -1}", refused: "sleep.seconds", says: "is -1; it must be 0 or more",
		spec: "`sleep` from 0: with or without a grace period; Kubernetes looks only where it knows one",
	},

	// The accepted names are in stopSignals. As in Kubernetes, they include SIGKILL and
	// SIGSTOP.
	"A22 beside a handler":  {row: "A22", block: "{preStop: {sleep: {seconds: 1}}, stopSignal: SIGRTMIN+3}"},
	"A22 empty":             {row: "A22", block: `{preStop: {sleep: {seconds: 1}}, stopSignal: ""}`, spec: signalRule},
	"A22 no such name":      {row: "A22", block: "stopSignal: SIGNONE", refused: "stopSignal", says: `is "SIGNONE"; a signal's name is allowed, such as SIGQUIT`},
	"A22 without SIG":       {row: "A22", block: "stopSignal: QUIT", refused: "stopSignal", says: "such as SIGQUIT"},
	"A22 lower case":        {row: "A22", block: "stopSignal: sigquit", refused: "stopSignal", says: "such as SIGQUIT"},
	"A22 a number":          {row: "A22", block: "stopSignal: 15", refused: "stopSignal", says: "must be a string, not a number"},
	"A22 a quoted number":   {row: "A22", block: `stopSignal: "15"`, refused: "stopSignal", says: "such as SIGQUIT"},
	"A22 SIG and a number":  {row: "A22", block: "stopSignal: SIG15", refused: "stopSignal", says: "such as SIGQUIT"},
	"A22 above RTMIN's":     {row: "A22", block: "stopSignal: SIGRTMIN+16", refused: "stopSignal", says: "such as SIGQUIT"},
	"A22 below RTMAX's":     {row: "A22", block: "stopSignal: SIGRTMAX-15", refused: "stopSignal", says: "such as SIGQUIT"},
	"A22 of a handler":      {row: "A22", handler: "{sleep: {seconds: 1}, stopSignal: SIGQUIT}", refused: "stopSignal", says: notAField},
	"A22 a space around it": {row: "A22", block: `stopSignal: " SIGQUIT"`, refused: "stopSignal", says: "such as SIGQUIT"},
}

func TestKubernetesRules(t *testing.T) {
	for name, rule := range kubernetesRules {
		if rule.handler == "" {
			t.Run(name, func(t *testing.T) { rule.check(t, rule.block, rule.refused) })
			continue
		}
		for _, kind := range []string{"postStart", "preStop"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				block := kind + ":\n  " + strings.ReplaceAll(rule.handler, "\n", "\n  ")
				path := strings.TrimSuffix(kind+"."+rule.refused, ".")
				rule.check(t, block, path)
			})
		}
	}
}

func (r rule) check(t *testing.T, block, path string) {
	lifecycle, err := (&Spec{Annotations: map[string]string{KeyLifecycle: block}}).Lifecycle()
	if r.says == "" {
		if err != nil {
			t.Fatal(err)
		}
		if r.handler != "" && lifecycle == nil {
			t.Error("it is accepted, and asks for nothing")
		}
		return
	}
	var invalid *InvalidError
	if !errors.As(err, &invalid) {
		t.Fatalf("got %v, want an *InvalidError", err)
	}
	if invalid.Key != KeyLifecycle || invalid.Path != path {
		t.Errorf("the error names %q of %q, want %q", invalid.Path, invalid.Key, path)
	}
	if !strings.Contains(invalid.Problem, r.says) {
		t.Errorf("%q does not say %q", invalid.Problem, r.says)
	}
}

// TestKubernetesRulesAreWhole: each row has an accepted and a refused value, under names that
// begin with the row.
func TestKubernetesRulesAreWhole(t *testing.T) {
	accepted, refused := map[string]bool{}, map[string]bool{}
	for name, rule := range kubernetesRules {
		if !strings.HasPrefix(name, rule.row+" ") {
			t.Errorf("%q is of row %s", name, rule.row)
		}
		if rule.says == "" {
			accepted[rule.row] = true
		} else {
			refused[rule.row] = true
		}
	}
	for _, row := range []string{"A1", "A2", "A3", "A9", "A10", "A11", "A12", "A13", "A19", "A20", "A21", "A22"} {
		if !accepted[row] || !refused[row] {
			t.Errorf("row %s: accepted %t, refused %t", row, accepted[row], refused[row])
		}
	}
}

// stopSignals are the names that Kubernetes accepts on Linux (row A22), with their numbers on
// amd64 and arm64 (signal(7); real-time signals as in glibc and musl, from 34).
var stopSignals = map[string]uint32{
	"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGILL": 4, "SIGTRAP": 5, "SIGABRT": 6, "SIGIOT": 6, "SIGBUS": 7, "SIGFPE": 8,
	"SIGKILL": 9, "SIGUSR1": 10, "SIGSEGV": 11, "SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGTERM": 15, "SIGSTKFLT": 16,
	"SIGCHLD": 17, "SIGCLD": 17, "SIGCONT": 18, "SIGSTOP": 19, "SIGTSTP": 20, "SIGTTIN": 21, "SIGTTOU": 22, "SIGURG": 23,
	"SIGXCPU": 24, "SIGXFSZ": 25, "SIGVTALRM": 26, "SIGPROF": 27, "SIGWINCH": 28, "SIGIO": 29, "SIGPOLL": 29, "SIGPWR": 30,
	"SIGSYS": 31,

	"SIGRTMIN": 34, "SIGRTMIN+1": 35, "SIGRTMIN+2": 36, "SIGRTMIN+3": 37, "SIGRTMIN+4": 38, "SIGRTMIN+5": 39,
	"SIGRTMIN+6": 40, "SIGRTMIN+7": 41, "SIGRTMIN+8": 42, "SIGRTMIN+9": 43, "SIGRTMIN+10": 44, "SIGRTMIN+11": 45,
	"SIGRTMIN+12": 46, "SIGRTMIN+13": 47, "SIGRTMIN+14": 48, "SIGRTMIN+15": 49,
	"SIGRTMAX-14": 50, "SIGRTMAX-13": 51, "SIGRTMAX-12": 52, "SIGRTMAX-11": 53, "SIGRTMAX-10": 54, "SIGRTMAX-9": 55,
	"SIGRTMAX-8": 56, "SIGRTMAX-7": 57, "SIGRTMAX-6": 58, "SIGRTMAX-5": 59, "SIGRTMAX-4": 60, "SIGRTMAX-3": 61,
	"SIGRTMAX-2": 62, "SIGRTMAX-1": 63, "SIGRTMAX": 64,
}

func TestStopSignals(t *testing.T) {
	if len(stopSignals) != 65 {
		t.Errorf("%d names are tested; Kubernetes has 65", len(stopSignals))
	}
	for name, number := range stopSignals {
		block := "{preStop: " + goodHandler + ", stopSignal: " + name + "}"
		got, err := (&Spec{Annotations: map[string]string{KeyLifecycle: block}}).Lifecycle()
		if err != nil || got.StopSignal != number || got.Block.StopSignal != name {
			t.Errorf("%s is %+v, %v; want %d", name, got, err, number)
		}
	}
}

// TestStopSignalsOnEveryArchitecture: the numbers are those in the kernel's headers, including
// the architecture that the tests do not run on. The headers lack real-time signals.
func TestStopSignalsOnEveryArchitecture(t *testing.T) {
	constant := regexp.MustCompile(`(?m)^\s+(SIG\w+)\s+= syscall\.Signal\((0x[0-9a-f]+)\)$`)
	for _, arch := range []string{"amd64", "arm64"} {
		numbers := map[string]string{}
		for _, file := range []string{"zerrors_linux.go", "zerrors_linux_" + arch + ".go"} {
			for _, match := range constant.FindAllStringSubmatch(source(t, "golang.org/x/sys/unix", file), -1) {
				numbers[match[1]] = match[2]
			}
		}
		for name, want := range stopSignals {
			if strings.HasPrefix(name, "SIGRT") {
				continue
			}
			if got, err := strconv.ParseUint(numbers[name], 0, 32); err != nil || uint32(got) != want {
				t.Errorf("%s on %s is %d (%v), want %d", name, arch, got, err, want)
			}
		}
	}
}

// source returns a file of a package in the module's graph.
func source(t *testing.T, pkg, file string) string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", pkg).Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
