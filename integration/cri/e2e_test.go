package cri

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

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The cases of Kubernetes 1.36.3, test/e2e/common/node/lifecycle_hook.go, each with
// its number in that file's order, its line and its words. What the kubelet does
// there is done here through CRI, and the handlers are the pod's annotations. Where
// the file has tens of seconds, and only their proportion matters, here are less.

// ownNet is a pod as Kubernetes runs it by default.
func ownNet(config *harness.PodConfig) { config.HostNetwork = false }

// startServer is a container with the tests' server, which is all that there is in it.
func startServer(b *bed.PodBench, pod *harness.Pod, port int) *bed.PodContainer {
	b.Helper()
	args := []string{"/testserver", "-http", fmt.Sprintf(":%d", port), "-https", fmt.Sprintf(":%d", securePort), "-log", "hits", "-ready", "ready"}
	return b.Create(pod, args, named("server"), func(config *harness.PodContainerConfig) { config.Image = bed.ImageServer })
}

// serving is a server that has been started and listens.
func serving(b *bed.PodBench, pod *harness.Pod) *bed.PodContainer {
	b.Helper()
	c := startServer(b, pod, bed.ServerPort)
	c.MustStart()
	c.WaitFor("ready")
	return c
}

const securePort = 8443

func wantHits(c *bed.PodContainer, want ...string) {
	c.B.Helper()
	var got []string
	for _, h := range c.Hits() {
		got = append(got, h.URI)
	}
	if !slices.Equal(got, want) {
		c.B.Errorf("the server was asked for %q, want %q", got, want)
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

// Group with the handler for the container of that name, and the server that it asks:
// in another pod for exec, where wget is busybox's curl, in the same one for an httpGet,
// which has no host.
func (h hookCase) Group(b *bed.PodBench, container string) (*harness.Pod, *bed.PodContainer) {
	b.Helper()
	var handler string
	var server *bed.PodContainer
	switch h.scheme {
	case "HTTP":
		handler = fmt.Sprintf("httpGet: {port: %d, path: '/echo?msg=hook'}", bed.ServerPort)
	case "HTTPS": // with a certificate that no authority has signed
		handler = fmt.Sprintf("httpGet: {scheme: HTTPS, port: %d, path: '/echo?msg=hook'}", securePort)
	default:
		var address string
		server, address = serverTarget(b)
		handler = bed.Shell(fmt.Sprintf("wget -q -O - 'http://%s:%d/echo?msg=hook'", address, bed.ServerPort))
	}
	field := "postStart"
	if h.preStop {
		field = "preStop"
	}
	pod := b.Pod(bed.Annotations{container + "." + bed.KeyLifecycle: "{" + field + ": {" + handler + "}}"}, ownNet)
	if server == nil {
		server = serving(b, pod)
	}
	return pod, server
}

// serverTarget is a server in its own pod.
func serverTarget(b *bed.PodBench) (server *bed.PodContainer, address string) {
	b.Helper()
	pod := b.Pod(nil, ownNet)
	return serving(b, pod), addresses(b, pod)[0]
}

// addresses of a pod: IPv4 and IPv6.
func addresses(b *bed.PodBench, pod *harness.Pod) []string {
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
			test.run(bed.OnCRI(t), "main")
		})
	}
}

// Cases 7 to 12, "Restartable Init Container Lifecycle Hook": to CRI, which the kubelet
// calls in the right order, a container that is started before the main one.
func TestCRIE2ERestartableInitHook(t *testing.T) {
	for _, test := range hookCases {
		t.Run(fmt.Sprintf("%02d line %d %s", test.initNumber, test.initLine, test.name), func(t *testing.T) {
			test.run(bed.OnCRI(t), "init", "main")
		})
	}
}

// run starts the containers one after the other, and stops them the other way
// round, as the kubelet does it with restartable init containers.
func (h hookCase) run(b *bed.PodBench, names ...string) {
	b.Helper()
	pod, server := h.Group(b, names[0])
	var containers []*bed.PodContainer
	for _, name := range names {
		c := b.Create(pod, bed.Obedient, named(name))
		c.MustStart()
		c.WaitFor("ready")
		containers = append(containers, c)
	}
	if asked := len(server.Hits()) > 0; asked == h.preStop {
		b.Errorf("the pod runs; the handler has asked: %t", asked)
	}
	for _, c := range slices.Backward(containers) {
		c.MustStop(graceE2E)
		c.WantExit(7)
	}
	wantHits(server, "/echo?msg=hook")
	if hits := server.Hits(); len(hits) == 1 && (hits[0].Scheme == "https") != (h.scheme == "HTTPS") {
		b.Errorf("asked over %s", hits[0].Scheme)
	}
}

// Case 13: line 594, "Lifecycle Sleep Hook when create a pod with lifecycle hook using
// sleep action valid prestop hook using sleep action". 5 s of 30 for 50 of 100.
func TestCRIE2E13Line594SleepWithinGracePeriod(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {sleep: {seconds: 5}}}", bed.Obedient)
	took := c.MustStop(30 * time.Second)
	c.WantExit(7)
	if took < 5*time.Second || took >= 30*time.Second {
		b.Errorf("stopped after %s, want between 5 and 30 s", took)
	}
}

// Case 14: line 646, "reduce GracePeriodSeconds during runtime": what the pod says is
// longer than what the delete says. 4 s of 20 for 30 of 50.
func TestCRIE2E14Line646SleepIsCut(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {sleep: {seconds: 20}}, terminationGracePeriodSeconds: 40}", bed.Obedient)
	took := c.MustStop(4 * time.Second)
	c.WantExit(7)
	if took < 3900*time.Millisecond || took >= 20*time.Second {
		b.Errorf("stopped after %s, want between 4 and 20 s", took)
	}
}

// Case 15: line 697, "ignore terminated container": preStop is not for a container that
// has exited by itself.
func TestCRIE2E15Line697SleepOfExitedContainer(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.App("{preStop: {sleep: {seconds: 10}}}", []string{"/bin/sh", "-c", "touch ready; while [ ! -e go ]; do sleep 0.02; done"})
	c.MustStart()
	c.Touch("go")
	status := c.WantExit(0)
	if ran := time.Duration(status.FinishedAt - status.StartedAt); ran >= 10*time.Second {
		b.Errorf("the container ran for %s, as long as preStop's sleep", ran)
	}
	if took := c.MustStop(graceE2E); took >= 10*time.Second {
		b.Errorf("the stop of an exited container took %s", took)
	}
}

// Case 16: line 744, "Lifecycle sleep action zero value prestop hook using sleep action
// with zero duration": the delete takes less than 30 s.
func TestCRIE2E16Line744SleepZero(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{preStop: {sleep: {seconds: 0}}}", bed.Obedient)
	if took := c.MustStop(60 * time.Second); took >= 30*time.Second {
		b.Errorf("stopped after %s", took)
	}
	c.WantExit(7)
}

// Case 17: line 779, "ContainerStopSignals": a pod that names its stop signal reaches
// Running, and gets it. The kubelet hands the field on to CRI; in the block it may stay.
func TestCRIE2E17Line779StopSignal(t *testing.T) {
	b := bed.OnCRI(t)
	c := b.RunApp("{stopSignal: SIGTERM}", bed.Obedient, func(config *harness.PodContainerConfig) {
		config.Image, config.StopSignal = harness.ImageBusyboxQuit, cri.Signal_SIGNAL_SIGTERM
	})
	c.WantState(cri.ContainerState_CONTAINER_RUNNING)
	c.MustStop(60 * time.Second)
	c.WantExit(7)
	c.WantSignals("TERM\n")
}

// docs/spec.md#http-get, docs/spec.md#tcp-socket: without a host they ask the pod. A server outside,
// on the same port of every address, hears nothing of it, whether or not there is one
// in the pod.
func TestCRINetworkHandlersStayInPod(t *testing.T) {
	b := bed.OnCRI(t)
	port := everywhere(t, func(_ http.ResponseWriter, r *http.Request) { b.Errorf("%s has left the pod", r.URL) })
	get := func(path string) string { return fmt.Sprintf("httpGet: {port: %d, path: %s}", port, path) }
	pod := b.Pod(bed.Annotations{
		"alone-http." + bed.KeyLifecycle: "{postStart: {" + get("/") + "}}",
		"alone-tcp." + bed.KeyLifecycle:  fmt.Sprintf("{postStart: {tcpSocket: {port: %d}}}", port),
		"app." + bed.KeyLifecycle:        "{postStart: {" + get("/postStart") + "}, preStop: {" + get("/preStop") + "}}",
	}, ownNet)
	for _, name := range []string{"alone-http", "alone-tcp"} {
		c := b.Create(pod, bed.Obedient, named(name))
		_, err := c.Start(b.Context())
		c.WantFailedStart(err, "postStart handler failed", "connection refused")
	}
	server := startServer(b, pod, port)
	server.MustStart()
	server.WaitFor("ready")
	app := b.Create(pod, bed.Obedient)
	app.MustStart()
	app.MustStop(graceE2E)
	wantHits(server, "/postStart", "/preStop")
}

// docs/spec.md#http-get, in a container whose network is the pod's: to itself,
// to a container beside it, and to another pod, over IPv4 and IPv6.
func TestCRIHandlersInPodNetwork(t *testing.T) {
	for name, host := range localHosts {
		t.Run("own server, "+name, func(t *testing.T) {
			b := bed.OnCRI(t)
			server := startServer(b, b.Pod(bed.Annotations{bed.KeyLifecycle: networkBlock(host, bed.ServerPort)}, ownNet), bed.ServerPort)
			server.MustStart()
			server.MustStop(graceE2E)
			wantHits(server, "/postStart", "/preStop")
		})
		t.Run("server beside it, "+name, func(t *testing.T) {
			b := bed.OnCRI(t)
			pod := b.Pod(bed.Annotations{"app." + bed.KeyLifecycle: networkBlock(host, bed.ServerPort)}, ownNet)
			server := serving(b, pod)
			app := b.Create(pod, bed.Obedient)
			app.MustStart()
			app.MustStop(graceE2E)
			wantHits(server, "/postStart", "/preStop")
		})
	}
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run("server in another pod, "+name, func(t *testing.T) {
			b := bed.OnCRI(t)
			target := b.Pod(nil, ownNet)
			server := serving(b, target)
			app := b.Create(b.Pod(bed.Annotations{bed.KeyLifecycle: networkBlock(addresses(b, target)[i], bed.ServerPort)}, ownNet), bed.Obedient)
			app.MustStart()
			app.MustStop(graceE2E)
			wantHits(server, "/postStart", "/preStop")
		})
	}
}

// docs/spec.md#http-get, the same on the host's network.
func TestCRIHandlersInHostNetwork(t *testing.T) {
	for name, host := range localHosts {
		t.Run(name, func(t *testing.T) {
			b := bed.OnCRI(t)
			var mu sync.Mutex
			var asked []string
			port := everywhere(t, func(_ http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, r.RequestURI)
			})
			app := b.App(networkBlock(host, port), bed.Obedient)
			app.MustStart()
			app.MustStop(graceE2E)
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
	return "{postStart: " + bed.WithRetry(get("/postStart")) + ", preStop: {" + get("/preStop") + "}}"
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
