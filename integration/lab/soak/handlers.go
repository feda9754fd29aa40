package main

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
)

// kinds of handlers.
var kinds = []string{"exec", "httpGet", "tcpSocket", "sleep"}

// handler of a kind, in YAML, that succeeds at once.
func (r *run) handler(kind string) string {
	switch kind {
	case "httpGet":
		return fmt.Sprintf("httpGet: {host: 127.0.0.1, port: %d, path: /soak}", r.port)
	case "tcpSocket":
		return fmt.Sprintf("tcpSocket: {host: 127.0.0.1, port: %d}", r.port)
	case "sleep":
		return "sleep: {seconds: 0}"
	default:
		return "exec: {command: [/bin/echo, done]}"
	}
}

// block of the container of that number. Every other one has exec handlers, which do most; the rest goes through all
// pairs of kinds. The grace period is longer than any machine needs: what is too slow is to be seen in the times.
func (r *run) block(number int) string {
	postStart, preStop := kinds[0], kinds[0]
	if pair := number / 2; number%2 == 1 {
		postStart, preStop = kinds[pair%len(kinds)], kinds[pair/len(kinds)%len(kinds)]
	}
	return fmt.Sprintf("{postStart: {%s}, preStop: {%s}, terminationGracePeriodSeconds: 600}", r.handler(postStart), r.handler(preStop))
}

// exitStatus of the containers' process after SIGTERM.
const exitStatus = 7

// process of a container: it says when it is ready to be stopped. Before, as the first process of its namespace, it
// would not get a SIGTERM.
var process = []string{"/bin/sh", "-c", "trap 'exit " + strconv.Itoa(exitStatus) + "' TERM; echo ready; touch /tmp/ready; sleep 100000 & while :; do wait; done"}

// serve answers every request with 200, on its own port.
func serve() (port int, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, nil, err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() { _ = server.Serve(listener) }()
	return listener.Addr().(*net.TCPAddr).Port, func() { _ = server.Close() }, nil
}
