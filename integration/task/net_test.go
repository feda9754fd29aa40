package task

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// serverArgs runs the tests' server, which is all that there is in a container
// of serverOnly.
func serverArgs(port int) []string {
	return []string{"/testserver", "-http", fmt.Sprintf(":%d", port), "-https", ":8443", "-log", "/hits", "-ready", "/ready"}
}

// serverOnly is an image that holds one static binary.
func serverOnly(b *bed.Bench) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) {
		b.Helper()
		config.RootFS = filepath.Join(b.TempDir(), config.ID)
		if err := os.MkdirAll(config.RootFS, 0o755); err != nil {
			b.Fatal(err)
		}
		program, err := os.ReadFile(filepath.Join(bed.BinDir(b), "testserver"))
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(config.RootFS, "testserver"), program, 0o755); err != nil {
			b.Fatal(err)
		}
	}
}

// ownNetwork gives the container a network namespace, with loopback only.
func ownNetwork(config *harness.ContainerConfig) {
	addNamespace(config, specs.LinuxNamespace{Type: specs.NetworkNamespace})
}

func addNamespace(config *harness.ContainerConfig, namespace specs.LinuxNamespace) {
	edit := config.Edit
	config.Edit = func(spec *specs.Spec) {
		if edit != nil {
			edit(spec)
		}
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, namespace)
	}
}

// outsideServer answers on a port of loopback, outside of every container.
func outsideServer(t *testing.T, served http.HandlerFunc) (port int) {
	t.Helper()
	server := httptest.NewServer(served)
	t.Cleanup(server.Close)
	return server.Listener.Addr().(*net.TCPAddr).Port
}

// strayServer is where a request arrives that leaves a container's network: another
// server listens on the same port in there.
func strayServer(b *bed.Bench) (port int) {
	return outsideServer(b.T, func(_ http.ResponseWriter, r *http.Request) { b.Errorf("%s left the container's network", r.URL) })
}

// docs/spec.md#http-get, docs/spec.md#tcp-socket: inside the container's network, with an image
// that holds one static binary, and never in the host's network.
func TestHandlersInTheContainersNetwork(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		port := strayServer(b)
		for name, test := range map[string]struct {
			handler string // PORT stands for the port
			want    []bed.Hit
		}{
			"the default host":  {"httpGet: {port: PORT, path: '/a?b=c'}", []bed.Hit{{Scheme: "http", Host: "localhost:PORT", URI: "/a?b=c"}}},
			"IPv4":              {"httpGet: {port: PORT, host: 127.0.0.1}", []bed.Hit{{Scheme: "http", Host: "127.0.0.1:PORT", URI: "/"}}},
			"IPv6":              {"httpGet: {port: PORT, host: '::1'}", []bed.Hit{{Scheme: "http", Host: "[::1]:PORT", URI: "/"}}},
			"HTTPS":             {"httpGet: {port: 8443, scheme: HTTPS}", []bed.Hit{{Scheme: "https", Host: "localhost:8443", URI: "/"}}},
			"HTTPS to HTTP":     {"httpGet: {port: PORT, scheme: HTTPS}", []bed.Hit{{Scheme: "http", Host: "localhost:PORT", URI: "/"}}},
			"500 is an answer":  {"httpGet: {port: PORT, path: /status/500}", []bed.Hit{{Scheme: "http", Host: "localhost:PORT", URI: "/status/500"}}},
			"a host header":     {"httpGet: {port: PORT, httpHeaders: [{name: Host, value: x.example}]}", []bed.Hit{{Scheme: "http", Host: "x.example", URI: "/"}}},
			"tcpSocket":         {"tcpSocket: {port: PORT}", nil},
			"tcpSocket to IPv6": {"tcpSocket: {port: 8443, host: '::1'}", nil},
		} {
			here := func(text string) string { return strings.ReplaceAll(text, "PORT", strconv.Itoa(port)) }
			c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.WithRetry(here(test.handler))}, serverArgs(port), serverOnly(b), ownNetwork)
			defer func() { // they run side by side
				if r := b.Await(result); r.Err != nil {
					b.Errorf("%s: %v", name, r.Err)
				}
				if got := c.Hits(); fmt.Sprint(got) != here(fmt.Sprint(test.want)) {
					b.Errorf("%s: the server was asked %v, want %v", name, got, test.want)
				}
			}()
		}
	})
}

// The network of the host, where that is the container's.
func TestHandlerInTheHostsNetwork(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		asked := make(chan string, 2)
		port := outsideServer(b.T, func(_ http.ResponseWriter, r *http.Request) { asked <- r.UserAgent() })
		b.Start(bed.Annotations{bed.KeyPostStart: fmt.Sprintf("httpGet: {host: 127.0.0.1, port: %d}", port)}, bed.Forever)
		if agent := <-asked; !strings.HasPrefix(agent, "lifecycle-shim/") || strings.HasSuffix(agent, "dev") {
			b.Errorf("User-Agent %q", agent)
		}
	})
}

// A pod's containers share one network: a handler reaches the other's server.
func TestHandlerInASharedNetwork(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		server := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.WithRetry("tcpSocket: {port: 8080}")}, serverArgs(bed.ServerPort), serverOnly(b), ownNetwork)
		pid, _, err := server.Run(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		shared := specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", pid)}
		b.Start(bed.Annotations{bed.KeyPostStart: "httpGet: {port: 8080, path: /from-the-other}"}, bed.Forever,
			func(config *harness.ContainerConfig) { addNamespace(config, shared) })
		if got := server.Hits(); len(got) != 1 || got[0].URI != "/from-the-other" {
			b.Errorf("the server was asked %v", got)
		}
	})
}

func TestHandlerInTheNetworkOfAUserNamespace(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.WithRetry("httpGet: {port: 8080}")}, serverArgs(bed.ServerPort), serverOnly(b), ownNetwork, func(config *harness.ContainerConfig) {
			addNamespace(config, specs.LinuxNamespace{Type: specs.UserNamespace})
			edit := config.Edit
			config.Edit = func(spec *specs.Spec) {
				edit(spec)
				spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
				spec.Linux.GIDMappings = spec.Linux.UIDMappings
			}
		})
		for dir := c.RootFS; dir != os.TempDir(); dir = filepath.Dir(dir) { // the container's root is a stranger on the way to it
			if err := os.Chmod(dir, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.Chown(c.RootFS, 100000, 100000); err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		if got := c.Hits(); len(got) != 1 {
			b.Errorf("the server was asked %v", got)
		}
	})
}

// A closed port fails in words, and so does one that opens too late.
func TestNobodyListens(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		for handler, says := range map[string]string{
			"httpGet: {port: 81}":   "postStart handler failed: dial tcp 127.0.0.1:81: connect: connection refused",
			"tcpSocket: {port: 82}": "postStart handler failed: dial tcp 127.0.0.1:82: connect: connection refused",
			"{httpGet: {port: 83}, retryPeriodSeconds: 2, timeoutSeconds: 3}": "postStart handler failed: timed out after 3s, " +
				"the last failure was: dial tcp 127.0.0.1:83: connect: connection refused (attempt 2)",
			"{httpGet: {port: 8080, path: /hang}, timeoutSeconds: 1}": "postStart handler failed: timed out after 1s",
		} {
			c := b.NewContainer(bed.Annotations{bed.KeyPostStart: handler}, serverArgs(bed.ServerPort), serverOnly(b), ownNetwork)
			if _, err := c.Create(b.Context()); err != nil {
				b.Fatal(err)
			}
			_, _, err := c.Start(b.Context())
			if !strings.Contains(handler, "8080") {
				b.WantError(err, says)
				continue
			}
			// The server may not listen yet: then it is refused, in words too.
			if err == nil || !strings.Contains(err.Error(), says) && !strings.Contains(err.Error(), "connection refused") {
				b.Errorf("got %v, want %q", err, says)
			}
		}
	})
}

// A preStop that asks the server to end: the container's exit is the usual good
// end, and its status is its own.
func TestPreStopOverHTTPEndsTheContainer(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.NewContainer(bed.Annotations{bed.KeyLifecycle: "{postStart: " + bed.WithRetry("tcpSocket: {port: 8080}") + ", preStop: {httpGet: {port: 8080, path: '/exit?code=3'}}}"},
			serverArgs(bed.ServerPort), serverOnly(b), ownNetwork)
		if _, _, err := c.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.Signal(syscall.SIGTERM)
		c.WantExit(3)
		b.Poll("the end of preStop in the log", func() bool {
			log := b.Daemon.Log()[b.LogStart:]
			return strings.Contains(log, "handler=preStop") && strings.Contains(log, `error="container exited"`) && strings.Contains(log, "result=Aborted")
		})
	})
}

// docs/spec.md#sleep: it holds the start, and 0 is valid.
func TestSleep(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "sleep: {seconds: 2}"}, bed.Forever)
		if r := b.Await(result); r.Err != nil || r.Took < 2*time.Second {
			b.Errorf("a start with a sleep of 2 s took %s: %v", r.Took, r.Err)
		}
		c.End(137)
		for _, none := range []string{"sleep: {seconds: 0}", "sleep: {}"} {
			b.Start(bed.Annotations{bed.KeyPostStart: none}, bed.Forever)
		}
	})
}

func TestSleepEndsWithTheContainer(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		exits := []string{"/bin/sh", "-c", "while [ ! -e /go ]; do sleep 0.02; done; exit 6"}
		held, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "sleep: {seconds: 1000}"}, exits)
		waitStarted(held, "postStart")
		held.Touch("go")
		if r := b.Await(result); r.Err != nil {
			b.Errorf("the start of a container that exited: %v", r.Err)
		}
		held.WantExit(6)
		stopping := b.Start(bed.Annotations{bed.KeyPreStop: "sleep: {seconds: 1000}"}, exits)
		stopping.Signal(syscall.SIGTERM)
		waitStarted(stopping, "preStop")
		stopping.Touch("go")
		stopping.WantExit(6)
		wantEnds(b, "Aborted", `error="container exited"`, 2)
	})
}

// docs/spec.md#start-limit: the request's own deadline, less half of what remains
// where that is short, so that the client gets the reason. The stop that follows
// ends before it too.
func TestDeadlineOfTheRequest(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: "{timeoutSeconds: 100, " + bed.Shell(bed.WaitForReady+"echo so far; sleep 1000") + "}"}, bed.Obedient)
		if _, err := c.Create(b.Context()); err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(b.Context(), 8*time.Second)
		defer cancel()
		_, took, err := c.Start(ctx)
		if ctx.Err() != nil {
			b.Error("the answer came too late")
		}
		b.WantError(err, "postStart handler failed: timed out after ", "s: so far") // 4 s, less what the request was on its way
		if took < 4*time.Second-100*time.Millisecond {                              // the deadline travels as what remains of it
			b.Errorf("the handler had %s", took)
		}
		c.WantExit(7)

		// One that ignores SIGTERM is killed before the deadline. The rest of that is short then, so that on a busy machine the answer
		// may miss it.
		deaf := b.NewContainer(bed.Annotations{bed.KeyPostStart: "{timeoutSeconds: 100, " + bed.Shell("sleep 1000") + "}"}, bed.Forever)
		if _, err := deaf.Create(b.Context()); err != nil {
			b.Fatal(err)
		}
		short, cancelShort := context.WithTimeout(b.Context(), 8*time.Second)
		defer cancelShort()
		if _, _, err := deaf.Start(short); err == nil {
			b.Error("the start of a container that was killed succeeds")
		}
		deaf.WantExit(137)
		b.Poll("the shim's SIGKILL in the log", func() bool {
			return slices.ContainsFunc(strings.Split(b.Daemon.Log()[b.LogStart:], "\n"), func(line string) bool {
				return strings.Contains(line, `msg="signal sent"`) && strings.Contains(line, "signal=9") && strings.Contains(line, b.Client.Namespace)
			})
		})
	})
}
