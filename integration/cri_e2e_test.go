package integration

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The cases of Kubernetes 1.36.3, test/e2e/common/node/lifecycle_hook.go, each with
// its number in that file's order, its line and its words. What the kubelet does
// there is done here through CRI, and the handlers are the pod's annotations. Where
// the file has tens of seconds, and only their proportion matters, here are less.

// ownNet is a pod as Kubernetes runs it unless told otherwise.
func ownNet(config *harness.PodConfig) { config.HostNetwork = false }

// server is a container with the tests' server, which is all that there is in it.
func (b *podBench) server(pod *harness.Pod, port int) *podContainer {
	b.Helper()
	args := []string{"/testserver", "-http", fmt.Sprintf(":%d", port), "-https", fmt.Sprintf(":%d", securePort), "-log", "hits", "-ready", "ready"}
	return b.create(pod, args, named("server"), func(config *harness.PodContainerConfig) { config.Image = imageServer })
}

// serving is a server that has been started and listens.
func (b *podBench) serving(pod *harness.Pod) *podContainer {
	b.Helper()
	c := b.server(pod, serverPort)
	c.start()
	c.waitFor("ready")
	return c
}

const securePort = 8443

func (c *podContainer) wantHits(want ...string) {
	c.b.Helper()
	var got []string
	for _, h := range c.hits() {
		got = append(got, h.URI)
	}
	if !slices.Equal(got, want) {
		c.b.Errorf("the server was asked for %q, want %q", got, want)
	}
}

// graceE2E is the grace period of lifecycle_hook.go's deletes.
const graceE2E = 15 * time.Second

// hookCase is one of the six that the file has twice: for a container, and for a
// restartable init container.
type hookCase struct {
	name                 string
	number, line         int
	initNumber, initLine int
	preStop              bool
	scheme               string // of an httpGet; empty: exec
}

var hookCases = []hookCase{
	{name: "poststart exec", number: 1, line: 163, initNumber: 7, initLine: 388},
	{name: "prestop exec", number: 2, line: 180, initNumber: 8, initLine: 410, preStop: true},
	{name: "poststart http", number: 3, line: 196, initNumber: 9, initLine: 431, scheme: "HTTP"},
	{name: "poststart https", number: 4, line: 217, initNumber: 10, initLine: 457, scheme: "HTTPS"},
	{name: "prestop http", number: 5, line: 239, initNumber: 11, initLine: 484, preStop: true, scheme: "HTTP"},
	{name: "prestop https", number: 6, line: 260, initNumber: 12, initLine: 510, preStop: true, scheme: "HTTPS"},
}

// pod with the handler for the container of that name, and the server that it asks:
// in another pod for exec, where wget is busybox's curl, in the same one for an httpGet,
// which has no host.
func (h hookCase) pod(b *podBench, container string) (*harness.Pod, *podContainer) {
	b.Helper()
	var handler string
	var server *podContainer
	switch h.scheme {
	case "HTTP":
		handler = fmt.Sprintf("httpGet: {port: %d, path: '/echo?msg=hook'}", serverPort)
	case "HTTPS": // with a certificate that nobody has signed
		handler = fmt.Sprintf("httpGet: {scheme: HTTPS, port: %d, path: '/echo?msg=hook'}", securePort)
	default:
		var address string
		server, address = b.target()
		handler = shell(fmt.Sprintf("wget -q -O - 'http://%s:%d/echo?msg=hook'", address, serverPort))
	}
	field := "postStart"
	if h.preStop {
		field = "preStop"
	}
	pod := b.pod(with{container + "." + keyLifecycle: "{" + field + ": {" + handler + "}}"}, ownNet)
	if server == nil {
		server = b.serving(pod)
	}
	return pod, server
}

// target is a server in a pod of its own.
func (b *podBench) target() (server *podContainer, address string) {
	b.Helper()
	pod := b.pod(nil, ownNet)
	return b.serving(pod), b.addresses(pod)[0]
}

// addresses of a pod: IPv4 and IPv6.
func (b *podBench) addresses(pod *harness.Pod) []string {
	b.Helper()
	addresses, err := pod.Addresses(b.Context())
	if err != nil || len(addresses) != 2 {
		b.Fatalf("addresses %v (%v), want two", addresses, err)
	}
	return addresses
}

// Cases 1 to 6, "Container Lifecycle Hook when create a pod with lifecycle hook should
// execute … hook properly".
func TestCRIE2EHook(t *testing.T) {
	for _, test := range hookCases {
		t.Run(fmt.Sprintf("%02d line %d %s", test.number, test.line, test.name), func(t *testing.T) {
			test.run(onCRI(t), "main")
		})
	}
}

// Cases 7 to 12, "Restartable Init Container Lifecycle Hook": to CRI, which the kubelet
// calls in the right order, a container that is started before the main one.
func TestCRIE2ERestartableInitHook(t *testing.T) {
	for _, test := range hookCases {
		t.Run(fmt.Sprintf("%02d line %d %s", test.initNumber, test.initLine, test.name), func(t *testing.T) {
			test.run(onCRI(t), "init", "main")
		})
	}
}

// run starts the containers one after the other, and stops them the other way
// round, as the kubelet does it with restartable init containers.
func (h hookCase) run(b *podBench, names ...string) {
	b.Helper()
	pod, server := h.pod(b, names[0])
	var containers []*podContainer
	for _, name := range names {
		c := b.create(pod, obedient, named(name))
		c.start()
		c.waitFor("ready")
		containers = append(containers, c)
	}
	if asked := len(server.hits()) > 0; asked == h.preStop {
		b.Errorf("the pod runs; the handler has asked: %t", asked)
	}
	for _, c := range slices.Backward(containers) {
		c.stop(graceE2E)
		c.wantExit(7)
	}
	server.wantHits("/echo?msg=hook")
	if hits := server.hits(); len(hits) == 1 && (hits[0].Scheme == "https") != (h.scheme == "HTTPS") {
		b.Errorf("asked over %s", hits[0].Scheme)
	}
}

// Case 13: line 594, "Lifecycle Sleep Hook when create a pod with lifecycle hook using
// sleep action valid prestop hook using sleep action". 5 s of 30 for 50 of 100.
func TestCRIE2E13Line594SleepWithinGracePeriod(t *testing.T) {
	b := onCRI(t)
	c := b.run("{preStop: {sleep: {seconds: 5}}}", obedient)
	took := c.stop(30 * time.Second)
	c.wantExit(7)
	if took < 5*time.Second || took >= 30*time.Second {
		b.Errorf("stopped after %s, want between 5 and 30 s", took)
	}
}

// Case 14: line 646, "reduce GracePeriodSeconds during runtime": what the pod says is
// longer than what the delete says. 4 s of 20 for 30 of 50.
func TestCRIE2E14Line646SleepIsCut(t *testing.T) {
	b := onCRI(t)
	c := b.run("{preStop: {sleep: {seconds: 20}}, terminationGracePeriodSeconds: 40}", obedient)
	took := c.stop(4 * time.Second)
	c.wantExit(7)
	if took < 3900*time.Millisecond || took >= 20*time.Second {
		b.Errorf("stopped after %s, want between 4 and 20 s", took)
	}
}

// Case 15: line 697, "ignore terminated container": preStop is not for a container that
// has exited by itself.
func TestCRIE2E15Line697SleepOfExitedContainer(t *testing.T) {
	b := onCRI(t)
	c := b.app("{preStop: {sleep: {seconds: 10}}}", []string{"/bin/sh", "-c", "touch ready; while [ ! -e go ]; do sleep 0.02; done"})
	c.start()
	c.touch("go")
	status := c.wantExit(0)
	if ran := time.Duration(status.FinishedAt - status.StartedAt); ran >= 10*time.Second {
		b.Errorf("the container ran for %s, as long as preStop's sleep", ran)
	}
	if took := c.stop(graceE2E); took >= 10*time.Second {
		b.Errorf("the stop of an exited container took %s", took)
	}
}

// Case 16: line 744, "Lifecycle sleep action zero value prestop hook using sleep action
// with zero duration": the delete takes less than 30 s.
func TestCRIE2E16Line744SleepZero(t *testing.T) {
	b := onCRI(t)
	c := b.run("{preStop: {sleep: {seconds: 0}}}", obedient)
	if took := c.stop(60 * time.Second); took >= 30*time.Second {
		b.Errorf("stopped after %s", took)
	}
	c.wantExit(7)
}

// Case 17: line 779, "ContainerStopSignals": a pod that names its stop signal reaches
// Running, and gets it. The kubelet hands the field on to CRI; in the block it may stay.
func TestCRIE2E17Line779StopSignal(t *testing.T) {
	b := onCRI(t)
	c := b.run("{stopSignal: SIGTERM}", obedient, func(config *harness.PodContainerConfig) {
		config.Image, config.StopSignal = harness.ImageBusyboxQuit, cri.Signal_SIGNAL_SIGTERM
	})
	c.wantState(cri.ContainerState_CONTAINER_RUNNING)
	c.stop(60 * time.Second)
	c.wantExit(7)
	c.wantSignals("TERM\n")
}

// docs/spec.md#http-get, docs/spec.md#tcp-socket: without a host they ask the pod. A server outside,
// on the same port of every address, hears nothing of it, whether or not there is one
// in the pod.
func TestCRINetworkHandlersStayInPod(t *testing.T) {
	b := onCRI(t)
	port := everywhere(t, func(_ http.ResponseWriter, r *http.Request) { b.Errorf("%s has left the pod", r.URL) })
	get := func(path string) string { return fmt.Sprintf("httpGet: {port: %d, path: %s}", port, path) }
	pod := b.pod(with{
		"alone-http." + keyLifecycle: "{postStart: {" + get("/") + "}}",
		"alone-tcp." + keyLifecycle:  fmt.Sprintf("{postStart: {tcpSocket: {port: %d}}}", port),
		"app." + keyLifecycle:        "{postStart: {" + get("/postStart") + "}, preStop: {" + get("/preStop") + "}}",
	}, ownNet)
	for _, name := range []string{"alone-http", "alone-tcp"} {
		c := b.create(pod, obedient, named(name))
		_, err := c.Start(b.Context())
		c.wantFailedStart(err, "postStart handler failed", "connection refused")
	}
	server := b.server(pod, port)
	server.start()
	server.waitFor("ready")
	app := b.create(pod, obedient)
	app.start()
	app.stop(graceE2E)
	server.wantHits("/postStart", "/preStop")
}

// docs/spec.md#http-get, in a container whose network is the pod's: to itself,
// to a container beside it, and to another pod, over IPv4 and IPv6.
func TestCRIHandlersInPodNetwork(t *testing.T) {
	for name, host := range localHosts {
		t.Run("own server, "+name, func(t *testing.T) {
			b := onCRI(t)
			server := b.server(b.pod(with{keyLifecycle: networkBlock(host, serverPort)}, ownNet), serverPort)
			server.start()
			server.stop(graceE2E)
			server.wantHits("/postStart", "/preStop")
		})
		t.Run("server beside it, "+name, func(t *testing.T) {
			b := onCRI(t)
			pod := b.pod(with{"app." + keyLifecycle: networkBlock(host, serverPort)}, ownNet)
			server := b.serving(pod)
			app := b.create(pod, obedient)
			app.start()
			app.stop(graceE2E)
			server.wantHits("/postStart", "/preStop")
		})
	}
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run("server in another pod, "+name, func(t *testing.T) {
			b := onCRI(t)
			target := b.pod(nil, ownNet)
			server := b.serving(target)
			app := b.create(b.pod(with{keyLifecycle: networkBlock(b.addresses(target)[i], serverPort)}, ownNet), obedient)
			app.start()
			app.stop(graceE2E)
			server.wantHits("/postStart", "/preStop")
		})
	}
}

// docs/spec.md#http-get, the same on the host's network.
func TestCRIHandlersInHostNetwork(t *testing.T) {
	for name, host := range localHosts {
		t.Run(name, func(t *testing.T) {
			b := onCRI(t)
			var mu sync.Mutex
			var asked []string
			port := everywhere(t, func(_ http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, r.RequestURI)
			})
			app := b.app(networkBlock(host, port), obedient)
			app.start()
			app.stop(graceE2E)
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(asked, []string{"/postStart", "/preStop"}) {
				b.Errorf("the server was asked for %q", asked)
			}
		})
	}
}

var localHosts = map[string]string{"default host": "", "IPv4": "127.0.0.1", "IPv6": "::1"}

// networkBlock asks in both handlers; the first time as often as it needs, for a server
// that has just been started.
func networkBlock(host string, port int) string {
	get := func(path string) string {
		return fmt.Sprintf("httpGet: {host: %q, port: %d, path: %s}", host, port, path)
	}
	return "{postStart: " + again(get("/postStart")) + ", preStop: {" + get("/preStop") + "}}"
}

// everywhere is a server on all addresses of the host, and any port.
func everywhere(t *testing.T, served http.HandlerFunc) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: served}}
	server.Start()
	t.Cleanup(server.Close)
	return listener.Addr().(*net.TCPAddr).Port
}
