package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	admission "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const (
	// creations of pods, one every creationPause at most, so that certificates are replaced meanwhile.
	creations     = 1000
	creationPause = 90 * time.Millisecond
	// creators do it at the same time.
	creators = 4
	// loadNamespace has the pods.
	loadNamespace = "load"
)

// shortLived makes the webhook replace its certificates, and their authority, every few seconds.
const shortLived = `[
 {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--certificate-lifetime=12s"},
 {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--authority-lifetime=60s"},
 {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--propagation-delay=3s"},
 {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--lease-duration=3s"}]`

// Replicas of the webhook are killed while 1,000 pods are created, and its certificates and their authority are replaced: no creation fails,
// and each pod's handlers are moved.
func TestWebhookReplicaIsKilled(t *testing.T) {
	b := on(t)
	b.install("4", "--set", "installer.enabled=false", "--set", "admission.mode=webhook")
	defer b.uninstall("4")
	b.kubectl("-n", namespace, "patch", "statefulset", "lifecycle-shim-webhook", "--type=json", "-p", shortLived)
	b.kubectl("-n", namespace, "rollout", "status", "statefulset/lifecycle-shim-webhook", "--timeout=3m")
	// The first authority is of before: another is founded, with the short life.
	b.kubectl("-n", namespace, "patch", "secret", "lifecycle-shim-webhook", "--type=json", "-p", `[{"op": "remove", "path": "/data"}]`)
	b.kubectl("create", "namespace", loadNamespace)
	defer b.kubectl("delete", "namespace", loadNamespace)
	b.webhookServes()

	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var beside sync.WaitGroup
	authorities, kills := map[string]bool{}, 0
	beside.Go(func() { authorities = b.watchAuthorities(ctx) })
	beside.Go(func() { kills = b.killReplicas(ctx) })
	b.createAll()
	cancel()
	beside.Wait()
	b.Logf("%d replicas killed, %d sets of authorities trusted", kills, len(authorities))
	if kills < 2 || len(authorities) < 3 {
		b.Errorf("%d replicas killed and %d sets of authorities: this test shows too little", kills, len(authorities))
	}
}

// createAll fails the test for each creation that fails, and each pod that keeps its handlers.
func (b *bench) createAll() {
	b.Helper()
	tick := time.NewTicker(creationPause)
	defer tick.Stop()
	var all sync.WaitGroup
	for creator := range creators {
		all.Go(func() {
			for i := range creations / creators {
				<-tick.C
				name := fmt.Sprintf("p-%d-%d", creator, i)
				pod, err := b.createPod(name)
				if err != nil {
					b.Errorf("pod %s: %v", name, err)
					continue
				}
				moved := pod.Annotations["app.lifecycle-shim.io/lifecycle"]
				if pod.Spec.Containers[0].Lifecycle != nil || !strings.Contains(moved, "preStop") {
					b.Errorf("pod %s was admitted with its handlers in spec, and %q in the annotation", name, moved)
				}
			}
		})
	}
	all.Wait()
}

// webhookServes waits until a pod's handlers are moved.
func (b *bench) webhookServes() {
	b.Helper()
	var last error
	err := harness.Poll(b.Context(), limit, "the webhook to move handlers", func() (bool, error) {
		pod, err := b.createPod("p?dryRun=All")
		last = err
		if err == nil && pod.Spec.Containers[0].Lifecycle != nil {
			return false, errors.New("a pod of the class is admitted with its handlers in spec")
		}
		return err == nil, nil
	})
	if err != nil {
		b.Fatal(err, last)
	}
}

// createPod of the class, which no scheduler takes.
func (b *bench) createPod(name string) (*core.Pod, error) {
	name, options, _ := strings.Cut(name, "?")
	manifest := fmt.Sprintf(`{"metadata": {"name": %q}, "spec": {"runtimeClassName": "lifecycle", "schedulerName": "none", "containers": [
  {"name": "app", "image": "nginx", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}]}}`, name)
	pod := &core.Pod{}
	err := b.Create(b.Context(), "/api/v1/namespaces/"+loadNamespace+"/pods?"+options, []byte(manifest), pod)
	return pod, err
}

// watchAuthorities lists the sets of authorities that the configuration has had.
func (b *bench) watchAuthorities(ctx context.Context) map[string]bool {
	seen := map[string]bool{}
	_ = harness.Poll(ctx, limit, "the end of the test", func() (bool, error) {
		var c admission.MutatingWebhookConfiguration
		if err := b.Get(ctx, "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/lifecycle-shim", &c); err == nil && len(c.Webhooks) > 0 {
			seen[string(c.Webhooks[0].ClientConfig.CABundle)] = true
		}
		return false, nil
	})
	return seen
}

// killReplicas kills them in turn, as a replica that crashes, the next when clients of both Services reach them again, and returns how many.
func (b *bench) killReplicas(ctx context.Context) (kills int) {
	var services [2]string
	for i := range services {
		services[i] = net.JoinHostPort(b.serviceIP(namespace, replica(i)), "443")
	}
	both := func() (bool, error) { return b.connects(ctx, services[0]) && b.connects(ctx, services[1]), nil }
	for i := 0; ; i = 1 - i {
		if err := harness.Poll(ctx, limit, "both replicas", both); err != nil {
			return kills // the end of the test
		}
		if err := b.killContainer(ctx, replica(i)); err != nil {
			b.Errorf("kill %s: %v", replica(i), err)
			return kills
		}
		kills++
		_ = harness.Poll(ctx, limit, "the end of the replica", func() (bool, error) { return !b.connects(ctx, services[i]), nil }) // or of the test
	}
}

func replica(i int) string { return fmt.Sprintf("lifecycle-shim-webhook-%d", i) }

func (b *bench) connects(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := b.Network.Dial(ctx, "tcp", address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// killContainer sends SIGKILL to the only container of a pod of ours.
func (b *bench) killContainer(ctx context.Context, name string) error {
	var pod core.Pod
	if err := b.Get(ctx, "/api/v1/namespaces/"+namespace+"/pods/"+name, &pod); err != nil {
		return err
	}
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	for _, n := range b.Nodes {
		if n.Name == pod.Spec.NodeName {
			_, err := n.Exec(ctx, "ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id)
			return err
		}
	}
	return fmt.Errorf("no node %q", pod.Spec.NodeName)
}
